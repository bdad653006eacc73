"""CPR (2026, Calibrated Partial Resets, arXiv 2607.24996)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from isorl.plasticity.methods.base import FirstEffect, check
from isorl.plasticity.methods.learner import Batch, Learner
from isorl.plasticity.methods.recycling import RecyclingMethod
from isorl.plasticity.methods.registry import METHODS
from isorl.plasticity.methods.regrama import gradient_score


@METHODS.register("cpr")
@dataclass
class CPR(RecyclingMethod):
    """Every N updates W_i <- (1 - p_i) W_i + p_i W'_i and V_ki <- (1 - p_i) V_ki, W' fresh, V the readers' weights.

        p_i = rate * min(1, 2 sigmoid(-sharpness (u_i - threshold)))      u_i <- decay u_i + (1 - decay) s_i

    s_i is the score of `regrama`, the size of the gradient by the unit's incoming weights over the layer's mean; u_i
    begins at 1 and does so again after each act. So every unit is reset a little, one with a small gradient by up to
    `rate`. Biases, norms and moments stay.

    Read in the authors' code (LucMc/continual-learning): formula, order and values. It draws W' by He's uniform
    initialisation; here it has the scale of the layer's initial weights, as for all recycling. Terms that other
    methods add to the loss are part of the gradient.

    Attributes:
        rate: largest share of a weight that one act replaces, in [0, 1]. 0.015, the authors' code.
        sharpness: at least 0. 16, the authors' code.
        threshold: of u, above 0. 1, the authors' code: units below the layer's mean are reset by the full rate.
        decay: of u, in [0, 1). 0.99, the authors' code.
        every: N, at least 1. 1000, the authors' code.
    """

    rate: float = 0.015
    sharpness: float = 16.0
    threshold: float = 1.0
    decay: float = 0.99
    every: int = 1000

    resets: ClassVar[str] = "a share of weights in and out of each unit; moments stay"
    saved: ClassVar[tuple[str, ...]] = ("_updates", "_utility")

    def __post_init__(self) -> None:
        check(
            self,
            rate=0 <= self.rate <= 1 or "between 0 and 1",
            sharpness=self.sharpness >= 0 or "at least 0",
            threshold=self.threshold > 0 or "above 0: utilities are about 1 on average",
            decay=0 <= self.decay < 1 or "at least 0 and below 1",
            every=self.every >= 1 or "at least 1",
        )

    def start(self, learner: Learner) -> None:
        """Gives every unit the utility 1."""
        super().start(learner)
        self._updates = 0
        self._utility = self._ones()

    def first_effect(self) -> FirstEffect:
        """Returns the N-th update."""
        return FirstEffect(update=self.every)

    @torch.no_grad()
    def after_update(self, batch: Batch) -> None:
        """Updates utilities, and resets a share at every N-th update."""
        self._updates += 1
        for utility, layer in zip(self._utility, self._recycler.layers, strict=True):
            utility.lerp_(gradient_score(layer.maker.weight), 1 - self.decay)
        if self._updates % self.every:
            return
        for index, utility in enumerate(self._utility):
            share = 2 * torch.sigmoid(-self.sharpness * (utility - self.threshold))
            self._recycler.blend(index, self.rate * share.clamp(max=1))
        self._utility = self._ones()

    def _ones(self) -> list[Tensor]:
        return [layer.maker.weight.new_ones(layer.units) for layer in self._recycler.layers]
