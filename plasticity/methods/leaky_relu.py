"""Leaky ReLU (Maas et al. 2013, Rectifier Nonlinearities Improve Neural Network Acoustic Models)."""

from __future__ import annotations

from dataclasses import dataclass

from isorl.plasticity.methods.activation import ActivationMethod
from isorl.plasticity.methods.registry import METHODS


@METHODS.register("leaky_relu")
@dataclass
class LeakyReLU(ActivationMethod):
    """h = max(z, 0) + 0.01 min(z, 0), the slope of the paper: no unit is ever without a gradient."""

    activation = "leaky_relu"
