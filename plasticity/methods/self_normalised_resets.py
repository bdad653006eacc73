"""Self-normalised resets (Farias and Jozefiak 2024, Self-Normalized Resets for Plasticity in CL, arXiv 2410.20098)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from isorl.plasticity.methods.base import FirstEffect, check
from isorl.plasticity.methods.learner import Batch, Learner
from isorl.plasticity.methods.recycling import RecyclingMethod
from isorl.plasticity.methods.registry import METHODS


@METHODS.register("self_normalised_resets")
@dataclass
class SelfNormalisedResets(RecyclingMethod):
    """A unit silent for a updates is replaced where a silence that long is improbable by its own past.

        P(silence >= a) = (1 - p)^a <= threshold      p = (firings + 1) / (updates + prior), before this silence

    The unit fires at an update where any sample of the minibatch gives it an output other than 0. The paper
    compares a with a quantile of the unit's inter-firing times, which its code (ajozefiak/SelfNormalizedResets)
    estimates from a histogram per unit, anew every few tasks; here they are taken as geometric, so that a
    count per unit is all that must be kept. A unit that never quite falls silent (tanh) is never replaced.

    Confound: Adam's step count stays, and with it large first steps of replaced weights; see `surgery.edit`.

    Attributes:
        threshold: in (0, 1), one minus the paper's percentile. 0.01, ours: the paper's code leaves it open.
        prior: updates counted as if they had held one firing, at least 2. 100, ours: a unit that never fired
            is replaced after 459 updates.
        every: updates between two looks, at least 1. 10, ours.
    """

    threshold: float = 0.01
    prior: int = 100
    every: int = 10

    resets: ClassVar[str] = (
        "weights in and out, bias, norm and firing record of silent units, and their moments"
    )
    saved: ClassVar[tuple[str, ...]] = ("_updates", "_firings", "_observed", "_silence")

    def __post_init__(self) -> None:
        check(
            self,
            threshold=0 < self.threshold < 1 or "above 0 and below 1",
            prior=self.prior >= 2 or "at least 2",
            every=self.every >= 1 or "at least 1",
        )

    def start(self, learner: Learner) -> None:
        """Gives every unit an empty past."""
        super().start(learner)
        self._updates = 0
        self._firings, self._observed, self._silence = (
            [layer.maker.weight.new_zeros(layer.units) for layer in self._recycler.layers] for _ in range(3)
        )

    def first_effect(self) -> FirstEffect:
        """Returns the first look after the shortest life of k firings and an improbable silence."""
        firings = torch.arange(10 * self.prior, dtype=torch.float64)  # k
        p = (firings + 1) / (firings + self.prior)
        silence = (math.log(self.threshold) / torch.log1p(-p)).ceil()
        shortest = float((firings + silence).min())
        return FirstEffect(update=math.ceil(shortest / self.every) * self.every)

    @torch.no_grad()
    def after_update(self, batch: Batch) -> None:
        """Counts firings; looks for improbable silences now and then."""
        self._updates += 1
        for index, h in enumerate(self._recycler.outputs(batch)):
            fires = (h != 0).any(0)
            self._firings[index] += fires
            # the present silence is what is judged: it becomes part of the past when it ends
            self._observed[index] += torch.where(fires, self._silence[index] + 1, 0)
            self._silence[index] = torch.where(fires, 0, self._silence[index] + 1)
            if self._updates % self.every == 0:
                self._replace(index)

    def _replace(self, index: int) -> None:
        p = (self._firings[index] + 1) / (self._observed[index] + self.prior)
        improbable = self._silence[index] * torch.log1p(-p) <= math.log(self.threshold)
        units = torch.nonzero(improbable)[:, 0]
        self._recycler.recycle(index, units)
        for record in (self._firings, self._observed, self._silence):
            record[index][units] = 0
