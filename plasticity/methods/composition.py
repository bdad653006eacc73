"""Several methods as one: called in the order in which they were given, refused where they contradict."""

from __future__ import annotations

import copy
import math
import pickle
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from isorl.plasticity.methods.base import Method, Note
from isorl.plasticity.methods.learner import Batch, Learner
from isorl.plasticity.methods.structure import NoChainError
from isorl.plasticity.networks.spec import NetworkSpec

GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
"""Types of what random numbers are drawn from."""


class Methods:
    """Calls the methods of one run in the order in which they were given.

    Raises:
        ValueError: two methods claim the same thing, or one claims what another relies on.
    """

    def __init__(self, methods: Mapping[str, Method] | None = None) -> None:
        self.by_name = dict(methods or {})
        claimed: dict[str, str] = {}
        for name, method in self.by_name.items():
            for claim in sorted(method.claims):
                if claim in claimed:
                    raise ValueError(
                        f"Methods '{claimed[claim]}' and '{name}' cannot combine: both decide {claim}. Leave one out."
                    )
                claimed[claim] = name
        for name, method in self.by_name.items():
            for claim in sorted(method.relies_on & claimed.keys()):
                if claimed[claim] != name:
                    raise ValueError(
                        f"Methods '{claimed[claim]}' and '{name}' cannot combine: the first changes {claim}, which the "
                        "second relies on. Leave one out."
                    )

    @property
    def may_draw(self) -> bool:
        """Says whether one may draw from the process's random generators: those of this project never do."""
        return any(not type(method).__module__.startswith("isorl.") for method in self)

    def __bool__(self) -> bool:
        return bool(self.by_name)

    def __iter__(self) -> Iterator[Method]:
        return iter(self.by_name.values())

    def __str__(self) -> str:
        return ", then ".join(map(str, self.by_name.values())) or "none"

    def network(self, spec: NetworkSpec) -> NetworkSpec:
        """Returns `spec` as every method in turn wants it; those that claim nothing, and only read it, come last."""
        for method in sorted(self, key=lambda method: not method.claims):
            spec = method.network(spec)
        return spec

    def optimizer(
        self, cls: type[Optimizer], options: dict[str, Any]
    ) -> tuple[type[Optimizer], dict[str, Any]]:
        """Returns the optimizer as every method in turn wants it."""
        for method in self:
            cls, options = method.optimizer(cls, options)
        return cls, options

    def start(self, learner: Learner) -> None:
        """Shows every method the networks.

        Raises:
            ValueError: a method learns from labels, and this learner has none; or it acts layer by layer, and the
                network is no chain of layers.
        """
        for name, method in self.by_name.items():
            if method.needs_labels and not learner.labelled:
                raise ValueError(
                    f"Method '{name}' learns from labels, which only agent=classifier is given. Leave it out."
                )
            try:
                method.start(learner)
            except NoChainError as error:
                raise ValueError(f"Method '{name}' {error}") from None
        self._generator = learner.generator
        self._at_start = {name: _numbers(method) for name, method in self.by_name.items()}

    def forgotten(self) -> list[str]:
        """Returns sentences on methods that count, average or draw from what a resumed run would not know."""
        found = []
        for name, method in self.by_name.items():
            if type(method).state_dict is not Method.state_dict:
                continue  # it says for itself what it saves
            before, now = self._at_start[name], _numbers(method)
            changed = [
                key
                for key in sorted(now)
                if key not in method.saved and not _equal(before.get(key), now[key])
            ]
            held = {key: getattr(method, key) for key in changed}
            drawn = [key for key, value in held.items() if isinstance(value, GENERATORS)]
            if counted := [key for key in changed if key not in drawn]:
                found.append(
                    f"Method '{name}' changes {', '.join(counted)}, which its `saved` does not name: a resumed run "
                    "begins with what `start` sets."
                )
            if own := [key for key in drawn if held[key] is not self._generator]:
                found.append(
                    f"Method '{name}' draws from {', '.join(own)}, which no checkpoint holds: a resumed run draws the "
                    "first numbers again. Draw from `learner.generator`, which is kept."
                )
        return found

    def idle(self, updates: int, switches: int) -> dict[str, str]:
        """Returns by name a sentence for each method that so many updates and task switches are too few for."""
        found = {}
        for name, method in self.by_name.items():
            first = method.first_effect()
            if math.isinf(first.update):
                found[name] = f"Method '{name}' never acts with these options."
            elif first.update > updates:
                when = f"at update {first.update:,.0f}, of {updates:,} planned ones"
                found[name] = f"Method '{name}' does nothing in this run: it first acts {when}."
            elif first.switch > switches:
                when = f"at task switch {first.switch:,}, of {switches:,}"
                found[name] = f"Method '{name}' does nothing in this run: it first acts {when}."
        return found

    def add_loss(self, loss: Tensor, batch: Batch) -> Tensor:
        """Returns `loss` plus every method's term."""
        if self.by_name:
            batch.task_loss = loss.detach()
        for method in self:
            term = method.loss(batch)
            if term is not None:
                loss = loss + term
        return loss

    def after_update(self, batch: Batch) -> None:
        """Lets every method act after an optimizer step."""
        for method in self:
            method.after_update(batch)

    def on_switch(self) -> None:
        """Lets every method act after a task switch."""
        for method in self:
            method.on_switch()

    def take_notes(self) -> list[tuple[str, Note]]:
        """Returns (method, note) of everything noted since the last call."""
        return [(name, note) for name, method in self.by_name.items() for note in method.take_notes()]

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Returns the state of every method by name."""
        return {name: _plain(method.state_dict()) for name, method in self.by_name.items()}

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


def _numbers(method: Method) -> dict[str, Any]:
    """What a method keeps as plain numbers, tensors, arrays and states of random generators, copied."""
    kinds = (int, float, Tensor, np.ndarray, np.generic, *GENERATORS)
    return {key: _copied(value) for key, value in vars(method).items() if isinstance(value, kinds)}


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, torch.Generator):
        return value.get_state()
    return pickle.dumps(value) if isinstance(value, GENERATORS) else copy.copy(value)


def _plain(state: Any) -> Any:
    """Returns `state` with Python's numbers for numpy's (np.mean gives one), which no checkpoint can hold.

    Single precision stays, to be refused: after a resume a Python number would be computed with in double precision.
    """
    if type(state) is dict:
        return {key: _plain(value) for key, value in state.items()}
    if type(state) in (list, tuple):
        return type(state)(map(_plain, state))
    return state.item() if isinstance(state, np.float64 | np.integer | np.bool_) else state


def _equal(before: Any, now: Any) -> bool:
    if isinstance(before, Tensor) and isinstance(now, Tensor):
        return before.shape == now.shape and torch.equal(before, now)
    return type(before) is type(now) and np.array_equal(before, now)
