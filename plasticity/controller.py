"""Adaptive isometry strength: watch an index, double the strength when plasticity declines, verify the effect.

The loop of arXiv 2606.09762's summaries, made safe: the strength has bounds, it rises and falls at different
levels of the index (hysteresis), a rise waits for its effect before the next, and every decision is logged.

    controller = AdaptiveStrength(optimizer)
    values = diagnose({"actor": actor}, batch)
    controller.update(values["plasticity/ntk_index/actor"], values["plasticity/dormant_units/actor"])
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from torch.optim import Optimizer


class Penalty(Protocol):
    """Describes a penalty of the loss that has a strength, such as the methods `gram` and `jacobian`."""

    strength: float


@dataclass(frozen=True)
class Decision:
    """Says what the controller saw at one update, what it did and why."""

    step: int
    index: float
    dormant: float
    before: float
    after: float
    reason: str


@dataclass
class AdaptiveStrength:
    """Sets the strength of an isometry penalty from an index that rises as plasticity declines.

    The baseline is the lowest index seen since `rebase` (a task switch changes the index by itself).

    Args:
        penalty: an AdamO, of whose isometric groups iso_lambda is set; or anything with a `strength`.
        start: the strength at first.
        minimum: never below.
        maximum: never above.
        factor: of a rise or a fall.
        decline: raise where the index exceeds decline times the baseline.
        recovery: lower where it is below recovery times the baseline and no unit is dormant any more.
        patience: updates between two changes, for the effect to show.
        log: every decision.
    """

    penalty: Optimizer | Penalty
    start: float = 0.01
    minimum: float = 0.01
    maximum: float = 10.0
    factor: float = 2.0
    decline: float = 1.5
    recovery: float = 1.1
    patience: int = 2
    log: list[Decision] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 0 < self.minimum <= self.start <= self.maximum < math.inf:
            raise ValueError(
                f"strengths must satisfy 0 < minimum <= start <= maximum, got {self.minimum}, {self.start}, "
                f"{self.maximum}"
            )
        if not (self.factor > 1 and self.patience >= 1 and self.decline >= self.recovery >= 1):
            raise ValueError(
                "factor must exceed 1, patience be at least 1 and decline >= recovery >= 1, got "
                f"factor={self.factor}, patience={self.patience}, decline={self.decline}, "
                f"recovery={self.recovery}"
            )
        if isinstance(self.penalty, Optimizer) and not isometric_groups(self.penalty):
            raise ValueError(
                "the optimizer has no isometric group; build it with AdamO(parameter_groups(...))"
            )
        self._step, self._changed = 0, -math.inf
        self._baseline, self._dormant_at_rise = math.inf, math.nan
        self._apply(self.start)

    @property
    def strength(self) -> float:
        """Returns the present strength."""
        return strength_of(self.penalty)

    def update(self, index: float, dormant: float = math.nan) -> Decision:
        """Takes one measurement, an index that rises with decline and the dormant share, and decides."""
        before = self.strength
        after, reason = self._decide(float(index), float(dormant), before)
        if after != before:
            self._changed = self._step
            self._dormant_at_rise = float(dormant) if after > before else math.nan
            self._apply(after)
        decision = Decision(self._step, float(index), float(dormant), before, after, reason)
        self.log.append(decision)
        self._step += 1
        return decision

    def rebase(self) -> None:
        """Forgets the baseline: the next measurement is the new one."""
        self._baseline = math.inf

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed run needs, as plain values."""
        return {
            "strength": self.strength,
            "step": self._step,
            "changed": self._changed,
            "baseline": self._baseline,
            "dormant_at_rise": self._dormant_at_rise,
            "log": [asdict(decision) for decision in self.log],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state_dict` was called."""
        self._step, self._changed = state["step"], state["changed"]
        self._baseline, self._dormant_at_rise = state["baseline"], state["dormant_at_rise"]
        self.log[:] = [Decision(**decision) for decision in state["log"]]
        self._apply(state["strength"])

    def _decide(self, index: float, dormant: float, now: float) -> tuple[float, str]:
        if not math.isfinite(index):
            return now, "index not measured"
        self._baseline = min(self._baseline, index)
        if self._step - self._changed < self.patience:
            return now, "waiting for the last change to act"
        if dormant >= self._dormant_at_rise > 0:  # False while NaN: no rise to verify
            return self._raised(now), "dormant units did not fall after the last rise"
        self._dormant_at_rise = math.nan
        if index > self.decline * self._baseline:
            return self._raised(now), "plasticity declines"
        if index <= self.recovery * self._baseline and not dormant > 0:
            return max(now / self.factor, self.minimum), "plasticity is back"
        return now, "steady"

    def _raised(self, now: float) -> float:
        return min(now * self.factor, self.maximum)

    def _apply(self, strength: float) -> None:
        if isinstance(self.penalty, Optimizer):
            for group in isometric_groups(self.penalty):
                group["iso_lambda"] = strength
        else:
            self.penalty.strength = strength


def isometric_groups(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Returns the parameter groups that an isometry step acts on; none but for AdamO."""
    # Muon's groups say `isometric`, too, but have no strength
    return [group for group in optimizer.param_groups if group.get("isometric") and "iso_lambda" in group]


def strength_of(penalty: Optimizer | Penalty) -> float:
    """Returns iso_lambda of the first isometric group of an optimizer, or the strength of a penalty."""
    return isometric_groups(penalty)[0]["iso_lambda"] if isinstance(penalty, Optimizer) else penalty.strength
