"""CReLU (Shang et al. 2016, arXiv 1603.05201; Abbas et al. 2023, arXiv 2303.07507, for plasticity)."""

from __future__ import annotations

from dataclasses import dataclass

from isorl.plasticity.methods.activation import ActivationMethod
from isorl.plasticity.methods.registry import METHODS


@METHODS.register("crelu")
@dataclass
class CReLU(ActivationMethod):
    """h = [relu(z), relu(-z)].

    A layer of width w has w / 2 pre-activations, so the next layer reads as many features as with ReLU and the
    network is smaller; Abbas et al. keep w pre-activations and so double what the next layer reads.
    """

    activation = "crelu"
