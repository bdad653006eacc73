"""Deep Fourier features (Lewandowski et al. 2024, Plastic Learning with Deep Fourier Features, arXiv 2410.20634)."""

from __future__ import annotations

from dataclasses import dataclass

from isorl.plasticity.methods.activation import ActivationMethod
from isorl.plasticity.methods.registry import METHODS


@METHODS.register("deep_fourier")
@dataclass
class DeepFourier(ActivationMethod):
    """h = [sin(z), cos(z)].

    A layer of width w has w / 2 pre-activations, as in the paper.
    """

    activation = "deep_fourier"
