"""The seam between a learner and the methods that act on it: four hooks, all no-ops unless overridden.

A learner calls them in this order, for the methods in the order in which they were given:

    start(learner)              once, when the networks exist
    loss(batch)                 per minibatch, before backward: a term to add to the loss
    after_update()              per minibatch, after optimizer.step()
    on_switch()                 when the task has switched, before the first update on the new task
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


@dataclass(frozen=True)
class Learner:
    """What a method may see and change.

    Attributes:
        networks: the trained networks by name: "actor" and "critic", or "q". They may share modules.
        optimizer: the one that trains them; a method that replaces weights handles their moments here.
        targets: network name -> its slowly following copy ("q" for DQN, none for PPO).
        generator: randomness for methods, apart from the agent's own stream.
    """

    networks: Mapping[str, nn.Module]
    optimizer: Optimizer
    targets: Mapping[str, nn.Module] = field(default_factory=dict)
    generator: torch.Generator = field(default_factory=torch.Generator)

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(name, parameter) of every trained parameter, shared ones once."""
        seen: set[int] = set()
        for network_name, network in self.networks.items():
            for name, parameter in network.named_parameters():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield f"{network_name}.{name}", parameter


class Method:
    """Base of all methods. `claims` names what can only be had once, for example "network" or "optimizer"."""

    claims: frozenset[str] = frozenset()

    def start(self, learner: Learner) -> None:
        """Remember what is needed later: initial weights, layers to watch."""

    def loss(self, batch: Any) -> Tensor | None:
        """A scalar to add to the loss of this minibatch, or None."""
        return None

    def after_update(self) -> None:
        """Act on the weights after an optimizer step."""

    def on_switch(self) -> None:
        """Act on the weights at a task switch."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values that a resumed run needs."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""


class Methods:
    """The methods of one run, called in order.

    Raises:
        ValueError: two methods claim the same thing.
    """

    def __init__(self, methods: Mapping[str, Method] | None = None) -> None:
        self.by_name = dict(methods or {})
        claimed: dict[str, str] = {}
        for name, method in self.by_name.items():
            for claim in method.claims:
                if claim in claimed:
                    raise ValueError(
                        f"Methods '{claimed[claim]}' and '{name}' cannot combine: both set the {claim}."
                    )
                claimed[claim] = name

    def __bool__(self) -> bool:
        return bool(self.by_name)

    def __iter__(self) -> Iterator[Method]:
        return iter(self.by_name.values())

    def start(self, learner: Learner) -> None:
        """Shows every method the networks."""
        for method in self:
            method.start(learner)

    def add_loss(self, loss: Tensor, batch: Any) -> Tensor:
        """`loss` plus every method's term."""
        for method in self:
            term = method.loss(batch)
            if term is not None:
                loss = loss + term
        return loss

    def after_update(self) -> None:
        """After an optimizer step."""
        for method in self:
            method.after_update()

    def on_switch(self) -> None:
        """After a task switch."""
        for method in self:
            method.on_switch()

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """State of every method by name."""
        return {name: method.state_dict() for name, method in self.by_name.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Takes back what `state_dict` gave.

        Raises:
            ValueError: the state belongs to other methods.
        """
        if list(state) != list(self.by_name):
            raise ValueError(
                f"The saved state is of methods {list(state)}, but this run has {list(self.by_name)}."
            )
        for name, method in self.by_name.items():
            method.load_state_dict(state[name])


def initial_weights(parameters: Iterable[tuple[str, nn.Parameter]]) -> dict[str, Tensor]:
    """A frozen copy of every parameter by name."""
    return {name: parameter.detach().clone() for name, parameter in parameters}
