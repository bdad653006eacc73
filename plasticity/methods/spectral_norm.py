"""Spectral normalisation (Miyato et al. 2018, arXiv 1802.05957; Gogianu et al. 2021, arXiv 2105.05246, in DQN)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch.optim import Optimizer

from isorl.plasticity.adamo import AdamO
from isorl.plasticity.methods.base import Method
from isorl.plasticity.methods.registry import METHODS
from isorl.plasticity.networks.spec import NetworkSpec


@METHODS.register("spectral_norm")
@dataclass
class SpectralNorm(Method):
    """Every hidden layer multiplies by W / sigma_max(W), sigma_max by one power iteration per update.

    Gogianu et al. found normalising one or two late layers best on Atari; here it is all hidden layers.
    """

    @property
    def claims(self) -> frozenset[str]:
        """Claims the scale of weights."""
        return frozenset({"the scale of hidden weights"})

    def optimizer(
        self, cls: type[Optimizer], options: dict[str, Any]
    ) -> tuple[type[Optimizer], dict[str, Any]]:
        """Returns the same one, unless it pulls at singular values too."""
        if issubclass(cls, AdamO):
            raise ValueError(
                "Method 'spectral_norm' and optimizer 'adamo' cannot combine: both set the singular values of hidden "
                "weights. Use optimizer=adam."
            )
        return cls, options

    def network(self, spec: NetworkSpec) -> NetworkSpec:
        """Returns `spec` with normalised layers."""
        return replace(spec, spectral_norm=True)
