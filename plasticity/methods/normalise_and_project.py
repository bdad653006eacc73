"""Normalise-and-project (Lyle et al. 2024, Normalization and Effective Learning Rates in RL, arXiv 2407.01800)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from isorl.plasticity.methods.base import Method
from isorl.plasticity.methods.learner import Batch, Learner
from isorl.plasticity.methods.registry import METHODS
from isorl.plasticity.methods.structure import CHAIN, hidden_layers
from isorl.plasticity.networks.spec import NetworkSpec


@METHODS.register("normalise_and_project")
@dataclass
class NormaliseAndProject(Method):
    """LayerNorm before each activation; after each update (W, b) <- ||W_0||_F / ||W||_F (W, b) in hidden layers.

    Behind a norm layer the common scale of W and b does not change the function, only the effective learning
    rate, which the projection keeps constant. The scales and offsets of the norm layers are left free.
    """

    relies_on: ClassVar[frozenset[str]] = frozenset({CHAIN})
    saved: ClassVar[tuple[str, ...]] = ("_norms",)

    @property
    def claims(self) -> frozenset[str]:
        """Claims the norm layers, without which the projection would change the function."""
        return frozenset({"the norm layers", "the scale of hidden weights"})

    def network(self, spec: NetworkSpec) -> NetworkSpec:
        """Returns `spec` with norm layers."""
        return replace(spec, layer_norm=True)

    def start(self, learner: Learner) -> None:
        """Remembers ||W_0||_F."""
        self._layers = [layer.maker for layer in hidden_layers(learner.networks)]
        self._norms = [layer.weight.detach().norm() for layer in self._layers]

    @torch.no_grad()
    def after_update(self, batch: Batch) -> None:
        """Scales every hidden weight and bias back."""
        for layer, norm_0 in zip(self._layers, self._norms, strict=True):
            ratio = norm_0 / layer.weight.norm()
            for parameter in layer.parameters():
                parameter.mul_(ratio)
