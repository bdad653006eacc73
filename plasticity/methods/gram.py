"""Coupled Gram penalty (Rosseau, Müller and Nowé 2026, arXiv 2606.09762, eq. 16, as a term of the loss)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from isorl.plasticity.methods.base import Method, check
from isorl.plasticity.methods.learner import Batch, Learner
from isorl.plasticity.methods.registry import METHODS
from isorl.plasticity.methods.structure import CHAIN, hidden_layers
from isorl.plasticity.networks import effective_weight
from isorl.plasticity.networks.spec import NetworkSpec
from isorl.plasticity.penalties import gram_penalty


@METHODS.register("gram")
@dataclass
class Gram(Method):
    """loss + strength * sum over hidden weights of ||W W^T - s I||_F^2, by the smaller of the two Gram matrices.

    AdamO applies the same penalty apart from Adam's moments; some codes have a factor 1/2.

    Attributes:
        strength: lambda, at least 0. 1e-3 is the value reported for arXiv 2606.09762.
        target: s, above 0; null: 2 for relu and tanh, 1 for isometric activations, the squares of the gains
            with which layers keep the signal's scale.
    """

    strength: float = 1e-3
    target: float | None = None

    relies_on: ClassVar[frozenset[str]] = frozenset({CHAIN})

    def __post_init__(self) -> None:
        check(
            self,
            strength=self.strength >= 0 or "at least 0: a negative one would push weights from isometry",
            target=self.target is None or self.target > 0 or "above 0",
        )

    def network(self, spec: NetworkSpec) -> NetworkSpec:
        """Reads off the target; changes nothing."""
        gain = spec.unit.gain if spec.gain is None else spec.gain
        self._target = gain**2 if self.target is None else self.target
        return spec

    def start(self, learner: Learner) -> None:
        """Finds the hidden weights."""
        self._layers = [layer.maker for layer in hidden_layers(learner.networks)]

    def loss(self, batch: Batch) -> Tensor:
        """Returns the term strength * sum R(W)."""
        penalties = [gram_penalty(effective_weight(layer), self._target) for layer in self._layers]
        return self.strength * torch.stack(penalties).sum()
