"""Wasserstein-init (Lewandowski et al. 2023, Directions of Curvature as an Explanation for Loss of Plasticity)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from isorl.plasticity.methods.base import Method, check
from isorl.plasticity.methods.learner import Batch, Learner
from isorl.plasticity.methods.registry import METHODS
from isorl.plasticity.methods.structure import CHAIN


@METHODS.register("wasserstein_init")
@dataclass
class WassersteinInit(Method):
    """loss + strength * sum over tensors of ||sort(theta) - sort(theta_0)||^2.

    The squared 2-Wasserstein distance between the weights of a tensor and its initial ones, times their number:
    unlike L2-init it lets weights change places, as long as their distribution stays.

    Attributes:
        strength: at least 0. 1e-3, taken over from l2_init; the paper's own value could not be checked.
    """

    strength: float = 1e-3

    relies_on: ClassVar[frozenset[str]] = frozenset({CHAIN})
    saved: ClassVar[tuple[str, ...]] = ("_initial",)

    def __post_init__(self) -> None:
        check(self, strength=self.strength >= 0 or "at least 0: a negative one would push weights away")

    def start(self, learner: Learner) -> None:
        """Remembers sort(theta_0)."""
        self._parameters = [parameter for _, parameter in learner.parameters()]
        self._initial = [parameter.detach().flatten().sort().values for parameter in self._parameters]

    def loss(self, batch: Batch) -> Tensor:
        """Returns the term strength * sum ||sort(theta) - sort(theta_0)||^2."""
        pairs = zip(self._parameters, self._initial, strict=True)
        return (
            self.strength
            * torch.stack(
                [(theta.flatten().sort().values - theta_0).square().sum() for theta, theta_0 in pairs]
            ).sum()
        )
