"""Layer normalisation (Ba et al. 2016, arXiv 1607.06450; Lyle et al. 2023, arXiv 2303.01486, for plasticity)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from isorl.plasticity.methods.base import Method
from isorl.plasticity.methods.registry import METHODS
from isorl.plasticity.networks.spec import NetworkSpec


@METHODS.register("layer_norm")
@dataclass
class LayerNorm(Method):
    """h <- activation(scale * (z - mean(z)) / std(z) + offset) for the pre-activations z of each hidden layer.

    In convolutions over channels and pixels together (GroupNorm with one group).
    """

    @property
    def claims(self) -> frozenset[str]:
        """Claims the norm layers."""
        return frozenset({"the norm layers"})

    def network(self, spec: NetworkSpec) -> NetworkSpec:
        """Returns `spec` with norm layers."""
        return replace(spec, layer_norm=True)
