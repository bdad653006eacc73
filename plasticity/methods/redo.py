"""ReDo (Sokar et al. 2023, The Dormant Neuron Phenomenon in Deep Reinforcement Learning, arXiv 2302.12902)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from isorl.plasticity.diagnostics.units import redo_score
from isorl.plasticity.methods.base import FirstEffect, check
from isorl.plasticity.methods.learner import Batch, Learner
from isorl.plasticity.methods.recycling import RecyclingMethod
from isorl.plasticity.methods.registry import METHODS


@METHODS.register("redo")
@dataclass
class ReDo(RecyclingMethod):
    """Every N updates, units with E|h_i| / mean_j E|h_j| <= tau get fresh incoming and zero outgoing weights.

    Scores come from the minibatch of the update. The target network follows at its own pace: the function of a
    unit whose output is zero does not change.

    Confound: Adam's step count stays, as in Dopamine (timoklein/redo sets it to 0), so that recycled weights take steps
    of up to 6.6 learning rates at first; see `surgery.edit`.

    Attributes:
        tau: at least 0; 0 recycles exactly dormant units alone. 0.025 in timoklein/redo, 0.1 in the paper's
            larger setting.
        every: N, at least 1. 1000 in the paper's replay-ratio study and in timoklein/redo.
    """

    tau: float = 0.025
    every: int = 1000

    resets: ClassVar[str] = (
        "incoming and outgoing weights, bias and norm of dormant units, and all their moments"
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
        for index, h in enumerate(self._recycler.outputs(batch)):
            dormant = torch.nonzero(redo_score(h) <= self.tau)[:, 0]
            self._recycler.recycle(index, dormant)
