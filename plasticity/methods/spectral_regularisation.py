"""Spectral regularisation (Lewandowski et al. 2024, Learning Continually by Spectral Regularization, 2406.06811)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isorl.plasticity.linalg import as_matrix
from isorl.plasticity.methods.base import Method, check
from isorl.plasticity.methods.learner import Batch, Learner
from isorl.plasticity.methods.registry import METHODS
from isorl.plasticity.methods.structure import CHAIN, NORMS, WEIGHTED


@METHODS.register("spectral_regularisation")
@dataclass
class SpectralRegularisation(Method):
    """loss + strength * sum of (sigma_max(W)^k - target)^2 of weights, ||b||^2 of biases, ||g - 1||^2 of norm scales.

    sigma_max comes from one power iteration per update, whose vector u is kept from one update to the next and is not
    differentiated. All layers count, heads too. Unlike `spectral_norm`, which divides weights by sigma_max, and
    unlike isometry, it looks at the largest singular value alone: small ones may vanish.

    The formula with target 1 is the paper's, of which only the abstract and derived code were read. In that code
    (KevinGuo27/lop-jax) the target is 2, ten iterations start from the same random vector at every update, and the
    strength is 0.1 in the configuration and 1e-2 to 1e-4 in the sweeps. Confound: a regularised head learns large
    values more slowly, which has nothing to do with plasticity.

    Attributes:
        strength: at least 0. 1e-3, the middle of lop-jax's sweeps.
        power: k, at least 1. 2 in the paper and in lop-jax.
        target: of sigma_max^k, above 0. 1 in the paper, 2 in lop-jax.
    """

    strength: float = 1e-3
    power: int = 2
    target: float = 1.0

    relies_on: ClassVar[frozenset[str]] = frozenset({CHAIN})
    saved: ClassVar[tuple[str, ...]] = ("_left",)

    def __post_init__(self) -> None:
        check(
            self,
            strength=self.strength >= 0 or "at least 0: a negative one would let weights explode",
            power=self.power >= 1 or "at least 1",
            target=self.target > 0 or "above 0",
        )

    def start(self, learner: Learner) -> None:
        """Finds weights, biases and scales, and draws the first vectors of the iterations."""
        modules = {id(m): m for network in learner.networks.values() for m in network.modules()}.values()
        self._weights = [m.weight for m in modules if isinstance(m, WEIGHTED)]
        self._biases = [b for m in modules if isinstance(b := getattr(m, "bias", None), nn.Parameter)]
        self._scales = [m.weight for m in modules if isinstance(m, NORMS)]
        drawn = [torch.randn(len(weight), generator=learner.generator) for weight in self._weights]
        self._left = [
            F.normalize(u, dim=0).to(weight) for u, weight in zip(drawn, self._weights, strict=True)
        ]

    def loss(self, batch: Batch) -> Tensor:
        """Returns the term, after one more power iteration."""
        terms = []
        for index, weight in enumerate(self._weights):
            sigma, self._left[index] = largest_singular_value(as_matrix(weight), self._left[index])
            terms.append((sigma**self.power - self.target).square())
        terms += [bias.square().sum() for bias in self._biases]
        terms += [(scale - 1).square().sum() for scale in self._scales]
        return self.strength * torch.stack(terms).sum()


def largest_singular_value(W: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Returns u^T W v of W (O, I), differentiable by W, and the next u (O,), by one power iteration from u."""
    with torch.no_grad():
        v = F.normalize(W.mT @ u, dim=0)
        u = F.normalize(W @ v, dim=0)
    return torch.dot(u, W @ v), u
