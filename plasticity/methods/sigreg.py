"""SIGReg (Sahebpasand et al. 2026, Stable Deep RL via Isotropic Gaussian Representations, arXiv 2602.19373)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from isorl.plasticity.methods.base import Method, check
from isorl.plasticity.methods.learner import Batch, Learner
from isorl.plasticity.methods.registry import METHODS
from isorl.plasticity.methods.structure import CHAIN, body

T_MAX = 5.0


@METHODS.register("sigreg")
@dataclass
class SIGReg(Method):
    """loss + strength * mean over directions a and points t of |mean_x exp(i t <a, phi(x)>) - exp(-t^2 / 2)|^2.

    The characteristic function of the features phi that the head reads, sliced along random unit vectors a, is drawn
    to that of a standard normal distribution: features become isotropic, of mean 0 and variance 1 in every direction.
    Directions are drawn anew at every update; t are `points` numbers from -5 to 5; the mean is over networks, bodies
    that they share once.

    Read in the authors' code (asahebpa/IsoGaussian-DRL): formula, points, slices and strengths. There the features
    come from a shared trunk of 512 units. Confounds: features behind a ReLU cannot have mean 0, so the term never
    vanishes and acts on their scale as well (the method `layer_norm` acts on that alone); with B samples it is at
    best about 1 / B.

    Attributes:
        strength: at least 0. 0.2, the smaller of the two that the authors ran with PPO.
        slices: directions, at least 1. 16 in the authors' code.
        points: at least 2. 8 in the authors' code.
    """

    strength: float = 0.2
    slices: int = 16
    points: int = 8

    relies_on: ClassVar[frozenset[str]] = frozenset({CHAIN})

    def __post_init__(self) -> None:
        check(
            self,
            strength=self.strength >= 0 or "at least 0: a negative one would push features from isotropy",
            slices=self.slices >= 1 or "at least 1",
            points=self.points >= 2 or "at least 2",
        )

    def start(self, learner: Learner) -> None:
        """Finds the bodies."""
        bodies = [body(network) for network in learner.networks.values()]
        self._bodies = list({tuple(map(id, each)): each for each in bodies}.values())
        self._generator = learner.generator

    def loss(self, batch: Batch) -> Tensor:
        """Returns the term, over the bodies in turn."""
        terms = []
        for phi in self._bodies:
            features = phi(batch.inputs)
            drawn = torch.randn(self.slices, features.shape[1], generator=self._generator)
            directions = F.normalize(drawn, dim=1).to(features)
            terms.append(gaussian_distance(features @ directions.T, self.points))
        return self.strength * torch.stack(terms).mean()


def gaussian_distance(projections: Tensor, points: int) -> Tensor:
    """Returns the mean over columns of (B, slices) and t of |mean exp(i t s) - exp(-t^2 / 2)|^2, 0-d."""
    t = torch.linspace(-T_MAX, T_MAX, points).to(projections)
    angles = t[:, None, None] * projections  # (points, B, slices)
    real = angles.cos().mean(1) - torch.exp(-t.square() / 2)[:, None]
    return (real.square() + angles.sin().mean(1).square()).mean()
