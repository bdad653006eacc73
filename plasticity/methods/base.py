"""The seam between a learner and the methods that act on it: hooks that do nothing unless overridden.

A learner calls them in this order, for the methods in the order in which they were given:

    network(spec)               before the networks exist: another network
    optimizer(cls, options)     before the optimizer exists: another one, or other options
    start(learner)              once, when both exist
    loss(batch)                 per minibatch, before backward: a term to add to the loss
    after_update(batch)         per minibatch, after optimizer.step()
    on_switch()                 when the task has switched, before the first update on the new task
    take_notes()                now and then: what it has measured or decided, for the run's log
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from isorl.plasticity.diagnostics.spectra import effective_rank, singular_values
from isorl.plasticity.methods.learner import Batch, Learner
from isorl.plasticity.methods.structure import body
from isorl.plasticity.networks.spec import NetworkSpec

Boundary = Literal["informed", "agnostic"]
"""Whether a method is told when the task switches, or goes by what it sees alone."""


class FirstEffect(NamedTuple):
    """Says when a method first does anything: not before this update, nor before this task switch."""

    update: float = 1
    switch: int = 0


class Note(NamedTuple):
    """Says what a method has measured or decided, for the run's loggers and its log.

    Attributes:
        values: numbers by key; logged as method/<method>/<key>.
        said: a line for the log; "" for none.
    """

    values: Mapping[str, float]
    said: str = ""


class Method:
    """Is the base of all methods; its hooks do nothing.

    The page of methods (docs/methods.md) is written from the modules: the first line of the module names the
    paper, the class docstring the formula, its `Attributes` the defaults and their sources, and `resets` what
    the method sets anew, moments included.
    """

    resets: ClassVar[str] = "nothing"
    requires: ClassVar[str | None] = None
    """A package that is not among the project's own dependencies."""
    saved: ClassVar[tuple[str, ...]] = ()
    """Names of the attributes (tensors, numbers, texts, lists and dicts of them) that a resumed run needs."""

    needs_labels: ClassVar[bool] = False
    """Whether it learns from right answers, which only the classifier is given."""

    agnostic_form: ClassVar[str] = ""
    """The option with which a method that is told of switches goes without."""

    relies_on: ClassVar[frozenset[str]] = frozenset()
    """What it needs left as it is: a method that claims one of these cannot combine with this one."""

    @property
    def boundary(self) -> Boundary:
        """Returns whether it uses the knowledge that the task has switched: "informed", or "agnostic"."""
        return "agnostic" if type(self).on_switch is Method.on_switch else "informed"

    @property
    def claims(self) -> frozenset[str]:
        """Names what only one method of a run can decide, for example "the activation"."""
        return frozenset()

    def network(self, spec: NetworkSpec) -> NetworkSpec:
        """Returns the network that this method wants instead of `spec`."""
        return spec

    def optimizer(
        self, cls: type[Optimizer], options: dict[str, Any]
    ) -> tuple[type[Optimizer], dict[str, Any]]:
        """Returns the optimizer's class and keyword arguments that this method wants instead."""
        return cls, options

    def start(self, learner: Learner) -> None:
        """Remembers what is needed later: initial weights, layers to watch."""

    def first_effect(self) -> FirstEffect:
        """Returns when it first does anything; `start` has been called. A shorter run has no method."""
        return FirstEffect()

    def loss(self, batch: Batch) -> Tensor | None:
        """Returns a scalar to add to the loss of this minibatch, or None."""
        return None

    def after_update(self, batch: Batch) -> None:
        """Acts on the weights after an optimizer step."""

    def on_switch(self) -> None:
        """Acts on the weights at a task switch."""

    def take_notes(self) -> list[Note]:
        """Returns what it has measured or decided since it was last asked, oldest first."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """Returns the tensors and plain values that a resumed run needs."""
        return {name: getattr(self, name) for name in self.saved}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave; `start` has been called."""
        for name in self.saved:
            setattr(self, name, copy.deepcopy(state[name]))


@dataclass
class PeriodicMethod(Method):
    """Acts now and then: at each task switch, at every N-th update, or at one of those where rank has fallen.

    Attributes:
        every: 0 acts at each task switch; N acts at every N-th update instead, for tasks without known ends.
        rank_drop: above 0: act at an N-th update only where the features' effective rank has fallen by this share.
            Below the highest of the N-th updates since the last act; 0 acts at each of them.
    """

    every: int = 0
    rank_drop: float = 0.0

    agnostic_form: ClassVar[str] = "every=N"
    saved: ClassVar[tuple[str, ...]] = ("_updates", "_highest_rank")

    def __post_init__(self) -> None:
        check(
            self,
            every=self.every >= 0 or "a number of updates, at least 0",
            rank_drop=(0 <= self.rank_drop < 1 or "at least 0 and below 1")
            if self.every
            else (self.rank_drop == 0 or "0 without `every`, the updates between two looks at the rank"),
        )

    @property
    def boundary(self) -> Boundary:
        """Returns "informed" where it acts at switches."""
        return "agnostic" if self.every else "informed"

    def start(self, learner: Learner) -> None:
        """Begins to count updates."""
        self.learner = learner
        self._updates = 0
        self._highest_rank = 0.0

    def first_effect(self) -> FirstEffect:
        """Returns the N-th update, the second look at the rank, or the first switch."""
        if not self.every:
            return FirstEffect(switch=1)
        return FirstEffect(update=2 * self.every if self.rank_drop else self.every)

    def act(self) -> None:
        """Does what the method is for."""
        raise NotImplementedError

    def after_update(self, batch: Batch) -> None:
        """Acts at every N-th update, where rank has fallen if that was asked for."""
        self._updates += 1
        if self.every and self._updates % self.every == 0 and self._is_due(batch):
            self.act()

    def on_switch(self) -> None:
        """Acts at a switch."""
        if not self.every:
            self.act()

    def _is_due(self, batch: Batch) -> bool:
        if not self.rank_drop:
            return True
        rank = feature_rank(self.learner, batch)
        is_due = rank < (1 - self.rank_drop) * self._highest_rank
        self._highest_rank = 0.0 if is_due else max(rank, self._highest_rank)
        return is_due


@torch.no_grad()
def feature_rank(learner: Learner, batch: Batch) -> float:
    """Returns the effective rank of the features of a minibatch, the mean over networks; 0 where it is not finite."""
    features = [body(network)(batch.inputs) for network in learner.networks.values()]
    ranks = torch.stack([effective_rank(singular_values(phi)) for phi in features])
    rank = float(ranks.mean())
    return rank if math.isfinite(rank) else 0.0


def check(method: Method, **conditions: bool | str) -> None:
    """Refuses options: `check(self, strength=self.strength >= 0 or "at least 0")`.

    Raises:
        ValueError: names the option, its value and what it must be.
    """
    for name, outcome in conditions.items():
        if outcome is not True:
            module = type(method).__module__.rpartition(".")[2]
            raise ValueError(f"{module}.{name} is {getattr(method, name)!r}; it must be {outcome}.")


def adam_options(method: str, cls: type[Optimizer], options: dict[str, Any]) -> dict[str, Any]:
    """Returns the options of plain Adam, for a method that replaces it.

    Raises:
        ValueError: another optimizer was asked for.
    """
    if cls is not Adam:
        raise ValueError(
            f"Method '{method}' and optimizer '{cls.__name__.lower()}' cannot combine: both decide the optimizer. "
            "Use optimizer=adam."
        )
    return options
