"""Shrink and perturb (Ash and Adams 2020, On Warm-Starting Neural Network Training, arXiv 1910.08475)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from isorl.plasticity.methods.base import PeriodicMethod, check
from isorl.plasticity.methods.learner import Learner
from isorl.plasticity.methods.registry import METHODS
from isorl.plasticity.methods.structure import CHAIN


@METHODS.register("shrink_and_perturb")
@dataclass
class ShrinkAndPerturb(PeriodicMethod):
    """theta <- shrink * theta + noise * std(theta_0) * N(0, 1), with fresh noise at each switch or N updates.

    std(theta_0) is taken per tensor at the start, so that the noise has the scale of the initialisation;
    tensors that start constant (biases, norms) and frozen ones are not perturbed.

    Attributes:
        shrink: factor on the weights, in (0, 1]. 0.5, ours: Ash and Adams sweep the interval.
        noise: scale of the noise relative to the initialisation, at least 0. 0.1, ours.
        every: 0 acts at each switch; 1 is the soft form of Juliani and Ash (2024), which wants shrink=0.999999.
    """

    shrink: float = 0.5
    noise: float = 0.1

    resets: ClassVar[str] = "a share 1 - shrink of every weight; moments stay"
    relies_on: ClassVar[frozenset[str]] = frozenset({CHAIN})
    saved: ClassVar[tuple[str, ...]] = (*PeriodicMethod.saved, "_scale")

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            self,
            shrink=0 < self.shrink <= 1 or "above 0 and at most 1",
            noise=self.noise >= 0 or "at least 0",
        )

    def start(self, learner: Learner) -> None:
        """Remembers the scale of the initialisation."""
        super().start(learner)
        self._parameters = [parameter for _, parameter in learner.parameters()]
        self._scale = [float(p.detach().std()) if p.numel() > 1 else 0.0 for p in self._parameters]

    @torch.no_grad()
    def act(self) -> None:
        """Shrinks and perturbs every trained tensor."""
        for theta, scale in zip(self._parameters, self._scale, strict=True):
            if not theta.requires_grad:
                continue
            theta.mul_(self.shrink)
            if scale > 0:
                # drawn on the CPU: the same noise on every device
                noise = torch.randn(theta.shape, generator=self.learner.generator)
                theta.add_(noise.to(theta.device), alpha=self.noise * scale)
        if (
            self.every != 1
        ):  # the soft form moves less than a step: the target goes on following at its own pace
            self.learner.sync_targets()
