"""Adaptive isometry (Rosseau, Müller and Nowé 2026, arXiv 2606.09762): the control loop of its summaries, bounded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from isorl.plasticity.controller import AdaptiveStrength, Decision, isometric_groups, strength_of
from isorl.plasticity.diagnostics.diagnose import diagnose
from isorl.plasticity.methods.base import FirstEffect, Method, Note, check
from isorl.plasticity.methods.learner import Batch, Learner
from isorl.plasticity.methods.registry import METHODS

INDICES: dict[str, Callable[[float], float]] = {
    "ntk_index": lambda value: value,
    "feature_effective_rank": lambda value: 1 / value if value > 0 else math.inf,
    "dormant_units": lambda value: 1 / max(1 - value, 1e-3),
    "gram_deviation": lambda value: 1 + value,
}
"""Maps a metric that can be watched to the index made of it, which rises as plasticity declines."""
PENALTIES = ("gram", "jacobian")
"""Methods whose strength is controlled where they are among those of the run."""


@METHODS.register("adaptive_isometry")
@dataclass
class AdaptiveIsometry(Method):
    """strength <- 2 strength where index > decline * lowest index so far; wait; again unless dormant units fell; lower.

    The strength is that of AdamO (iso_lambda), of `gram` or of `jacobian`, whichever the run has; it starts as given.
    Every N updates the networks are measured on the minibatch and the index is averaged over them. A rise is followed
    by `patience` measurements of waiting; where units were dormant and are no fewer then, the strength rises again.
    It is lowered where the index is back at `recovery` times the lowest and no unit is dormant. Measured by the
    learner's own minibatches, it needs to know of no task switch.

    Attributes:
        index: what is watched: ntk_index, feature_effective_rank (its inverse), dormant_units (the inverse of the share
            that is active) or gram_deviation (plus 1). ntk_index, the "plasticity index" of the summaries.
        every: N, at least 1. 200, ours.
        samples: the networks are measured on so many samples of the minibatch. 32, ours.
        factor: of a rise or a fall, above 1. 2, of the summaries.
        decline: a rise is due where the index exceeds so many times its lowest. 1.5, ours.
        recovery: a fall is due where it is below so many times its lowest, 1 to decline. 1.1, ours.
        patience: measurements between two changes. 2, ours.
        lowest: the least strength, as a multiple of the given one, above 0 and at most 1. 1, ours.
        highest: the largest, at least 1. 32, ours: five rises.
    """

    index: str = "ntk_index"
    every: int = 200
    samples: int = 32
    factor: float = 2.0
    decline: float = 1.5
    recovery: float = 1.1
    patience: int = 2
    lowest: float = 1.0
    highest: float = 32.0

    saved: ClassVar[tuple[str, ...]] = ("_updates", "_notes")

    def __post_init__(self) -> None:
        check(
            self,
            index=self.index in INDICES or f"one of {', '.join(INDICES)}",
            every=self.every >= 1 or "at least 1",
            samples=self.samples >= 2 or "at least 2: an index compares samples",
            factor=self.factor > 1 or "above 1",
            decline=self.decline >= 1.01 or "at least 1.01: an index is never lower than its lowest",
            recovery=1 <= self.recovery <= self.decline or f"from 1 to decline, {self.decline:g}",
            patience=self.patience >= 1 or "at least 1",
            lowest=0 < self.lowest <= 1 or "above 0 and at most 1, a multiple of the given strength",
            highest=1 <= self.highest < math.inf or "at least 1, a multiple of the given strength",
        )

    def start(self, learner: Learner) -> None:
        """Finds the penalties whose strength it controls.

        Raises:
            ValueError: there is none, or its strength is 0.
        """
        self._learner, self._updates = learner, 0
        self._notes: list[dict[str, Any]] = []
        penalties: dict[str, Any] = {n: learner.methods[n] for n in PENALTIES if n in learner.methods}
        if isometric_groups(learner.optimizer):
            penalties["adamo"] = learner.optimizer
        if not penalties:
            raise ValueError(
                "Method 'adaptive_isometry' controls the strength of an isometry penalty, and this run has none. Use "
                "optimizer=adamo, or method=[gram,adaptive_isometry]."
            )
        self._controllers = {name: self._controller(name, each) for name, each in penalties.items()}

    def _controller(self, name: str, penalty: Any) -> AdaptiveStrength:
        given = strength_of(penalty)
        if given == 0:
            raise ValueError(
                f"Method 'adaptive_isometry' multiplies the strength of '{name}', which is 0. Give it one above 0."
            )
        return AdaptiveStrength(
            penalty,
            start=given,
            minimum=given * self.lowest,
            maximum=given * self.highest,
            factor=self.factor,
            decline=self.decline,
            recovery=self.recovery,
            patience=self.patience,
        )

    def first_effect(self) -> FirstEffect:
        """Returns the update after the second measurement, or after the first where the strength may fall at once."""
        return FirstEffect(update=1 + (self.every if self.lowest < 1 else 2 * self.every))

    def after_update(self, batch: Batch) -> None:
        """Measures at every N-th update, and decides."""
        self._updates += 1
        if self._updates % self.every:
            return
        index, dormant = self._measured(batch)
        for name, controller in self._controllers.items():
            decision = controller.update(index, dormant)
            controller.log.clear()  # the run's log has them
            self._notes.append(_note(name, decision, self._updates))

    def _measured(self, batch: Batch) -> tuple[float, float]:
        """The index and the share of dormant units, each the mean over the networks; NaN where not measured."""
        networks = self._learner.networks
        metrics = list(dict.fromkeys([self.index, "dormant_units"]))
        values = diagnose(networks, batch.inputs[: self.samples], metrics, say_what_is_left_out=False)
        index, dormant = (
            [float(values.get(f"plasticity/{metric}/{name}", math.nan)) for name in networks]
            for metric in (self.index, "dormant_units")
        )
        return sum(map(INDICES[self.index], index)) / len(index), sum(dormant) / len(dormant)

    def take_notes(self) -> list[Note]:
        """Returns the decisions since the last call."""
        notes, self._notes = self._notes, []
        return [Note(**note) for note in notes]

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of every controller, too."""
        controllers = {name: controller.state_dict() for name, controller in self._controllers.items()}
        return {**super().state_dict(), "controllers": controllers}

    def load_state_dict(self, state: Any) -> None:
        """Takes back what `state_dict` gave."""
        super().load_state_dict(state)
        for name, controller in self._controllers.items():
            controller.load_state_dict(state["controllers"][name])


def _note(penalty: str, decision: Decision, update: int) -> dict[str, Any]:
    """A decision as plain values: its numbers by key, and a line for the log where the strength changed."""
    values = {"index": decision.index, "dormant_units": decision.dormant, "strength": decision.after}
    change = f"{decision.before:.4g} -> {decision.after:.4g}"
    seen = f"index {decision.index:.4g}, dormant units {decision.dormant:.3g}"
    said = f"update {update:,}: strength of {penalty} {change}: {decision.reason} ({seen})"
    return {
        "values": {f"{key}/{penalty}": value for key, value in values.items()},
        "said": said if decision.after != decision.before else "",
    }
