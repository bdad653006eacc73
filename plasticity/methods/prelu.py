"""PReLU (He et al. 2015, Delving Deep into Rectifiers, arXiv 1502.01852)."""

from __future__ import annotations

from dataclasses import dataclass

from isorl.plasticity.methods.activation import ActivationMethod
from isorl.plasticity.methods.registry import METHODS


@METHODS.register("prelu")
@dataclass
class PReLU(ActivationMethod):
    """h = max(z, 0) + a min(z, 0), with one learned slope a per layer that starts at 0.25, as in the paper."""

    activation = "prelu"
