"""ReGraMa (Liu et al. 2025, Measure Gradients, Not Activations! Enhancing Neuronal Activity in DRL, 2505.24061)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from isorl.plasticity.diagnostics.gradients import gradient_scores
from isorl.plasticity.methods.base import FirstEffect, check
from isorl.plasticity.methods.learner import Batch, Learner
from isorl.plasticity.methods.recycling import RecyclingMethod
from isorl.plasticity.methods.registry import METHODS


@METHODS.register("regrama")
@dataclass
class ReGraMa(RecyclingMethod):
    """Every N updates, units with E|g_i| / mean_j E|g_j| <= tau get fresh incoming and zero outgoing weights.

    g_i is the gradient of the loss by the incoming weights of unit i at that update, E its mean over them; terms that
    other methods add to the loss are part of it. Units are recycled as `redo` recycles them, so that the two differ
    in the score alone: a unit may answer much and learn nothing, or be silent and about to learn.

    Read in a later code (LucMc/continual-learning), not in the authors': score, tau and N. There moments are reset as
    well. Confound: a unit with zero outgoing weights has no gradient, so that what was just recycled scores lowest
    until its readers have taken it up; N must be long enough for that.

    Confound, too: Adam's step count stays, and with it large first steps of recycled weights; see `surgery.edit`.

    Attributes:
        tau: at least 0. 0.01 in that code.
        every: N, at least 1. 1000 in that code.
    """

    tau: float = 0.01
    every: int = 1000

    resets: ClassVar[str] = (
        "incoming and outgoing weights, bias and norm of units with small gradients, and all their moments"
    )
    saved: ClassVar[tuple[str, ...]] = ("_updates",)

    def __post_init__(self) -> None:
        check(self, tau=self.tau >= 0 or "at least 0", every=self.every >= 1 or "at least 1")

    def start(self, learner: Learner) -> None:
        """Finds the hidden layers."""
        super().start(learner)
        self._updates = 0

    def first_effect(self) -> FirstEffect:
        """Returns the N-th update."""
        return FirstEffect(update=self.every)

    def after_update(self, batch: Batch) -> None:
        """Recycles at every N-th update."""
        self._updates += 1
        if self._updates % self.every:
            return
        scores = [gradient_score(layer.maker.weight) for layer in self._recycler.layers]
        for index, score in enumerate(scores):
            self._recycler.recycle(index, torch.nonzero(score <= self.tau)[:, 0])


def gradient_score(weight: Tensor) -> Tensor:
    """Returns E|g_i| / mean_j E|g_j| (O,) over the gradient that a weight (O, ...) holds; 0 where all is 0."""
    assert weight.grad is not None, "an update leaves every trained weight a gradient"
    return gradient_scores(weight.grad.flatten(1))
