"""What a method sees of the learner it acts on, and the acts that touch weights, moments and targets together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from isorl.plasticity.methods.surgery import forget


class Batch:
    """Holds the minibatch of an update as methods see it; nothing is computed before it is asked for.

    Args:
        inputs: gives (B, ...), what the networks read.
        labels: (B,) int64 right answers, where the learner is a classifier.
        allowed: (C,) bool, the classes of the task, where its head is masked.
    """

    def __init__(
        self,
        inputs: Callable[[], Tensor],
        labels: Tensor | None = None,
        allowed: Tensor | None = None,
    ) -> None:
        self._inputs = inputs
        self.labels, self.allowed = labels, allowed
        self.task_loss = torch.zeros(())
        """The learner's own loss of this minibatch, 0-d and without a graph, while methods add to it."""

    @cached_property
    def inputs(self) -> Tensor:
        """Returns what the networks read, (B, ...)."""
        return self._inputs()


@dataclass(frozen=True, eq=False)
class Learner:
    """Holds what a method may see and change.

    Attributes:
        networks: the trained networks by name, from input to output: "actor" and "critic", or "q". They may
            share modules.
        optimizer: the one that trains them; whoever replaces weights handles their moments here.
        root: the module that holds everything: networks, targets and parameters outside them (`log_std`).
        fresh: builds a twin of `root` initialised as at the beginning of a run.
        targets: network name -> its slowly following copy ("q" for DQN, none for PPO).
        generator: randomness for methods, apart from the agent's own stream.
        labelled: whether its batches carry labels, as a classifier's do.
        methods: all methods of the run by name, for one that acts on another's options.
    """

    networks: Mapping[str, nn.Sequential]
    optimizer: Optimizer
    root: nn.Module
    fresh: Callable[[], nn.Module]
    targets: Mapping[str, nn.Sequential] = field(default_factory=dict)
    generator: torch.Generator = field(default_factory=torch.Generator)
    labelled: bool = False
    methods: Mapping[str, Any] = field(default_factory=dict)

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yields (name, parameter) of every parameter of the trained networks, shared ones once."""
        seen: set[int] = set()
        for network_name, network in self.networks.items():
            for name, parameter in network.named_parameters():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield f"{network_name}.{name}", parameter

    def outside(self) -> list[nn.Parameter]:
        """Returns the trained parameters that belong to no network, such as the spread of Gaussian actions."""
        inside = {id(parameter) for _, parameter in self.parameters()}
        held = {id(parameter) for parameter in self.root.parameters()}
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        return [parameter for parameter in trained if id(parameter) in held - inside]

    def fresh_weights(self) -> dict[str, Tensor]:
        """Returns the parameters of a newly initialised learner, under their names in `root` at the start."""
        with self.seeded():
            return {name: parameter.detach() for name, parameter in self.fresh().named_parameters()}

    @torch.no_grad()
    def redraw(self, parameters: Iterable[nn.Parameter]) -> None:
        """Draws `parameters` as at the beginning of a run, forgets their moments, and makes the targets follow."""
        names = {id(parameter): name for name, parameter in self.root.named_parameters()}
        fresh = self.fresh_weights()
        for parameter in parameters:
            parameter.copy_(fresh[names[id(parameter)]])
            forget(self.optimizer, parameter)
        self.sync_targets()

    def sync_targets(self) -> None:
        """Makes every target equal to its network: an online network redrawn apart from it would chase noise."""
        for name, target in self.targets.items():
            target.load_state_dict(self.networks[name].state_dict())

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """Makes torch's own draws come from `generator` inside; the agent's stream is as it was afterwards."""
        seed = torch.randint(2**31, (), generator=self.generator)
        with torch.random.fork_rng(devices=[]):  # weights are drawn on the CPU and then moved
            torch.manual_seed(int(seed))
            yield
