"""Network bodies and the layers they are made of.

A new activation needs a line `ACTIVATIONS.register(...)` in any file of this folder; it is found by itself.
"""

from isorl.plasticity.networks.activations import (
    ACTIVATIONS,
    Activation,
    CReLU,
    DeepFourier,
    GroupSort,
    MaxMin,
)
from isorl.plasticity.networks.bodies import (
    Body,
    body_for,
    build_body,
    build_mlp,
    build_nature_cnn,
    build_small_cnn,
    describe_body,
    initialise_,
)
from isorl.plasticity.networks.heads import cross_entropy, masked
from isorl.plasticity.networks.isometric import (
    IsometricConv2d,
    IsometricLinear,
    PatchConv2d,
    Shift,
    effective_weight,
    project_,
)
from isorl.plasticity.networks.spec import NETWORKS, NetworkSpec
from isorl.plasticity.networks.spectral import SpectralConv2d, SpectralLinear
from isorl.plasticity.registry import import_modules

import_modules(__name__, __path__)

__all__ = [
    "ACTIVATIONS",
    "NETWORKS",
    "Activation",
    "Body",
    "CReLU",
    "DeepFourier",
    "GroupSort",
    "IsometricConv2d",
    "IsometricLinear",
    "MaxMin",
    "NetworkSpec",
    "PatchConv2d",
    "Shift",
    "SpectralConv2d",
    "SpectralLinear",
    "body_for",
    "build_body",
    "build_mlp",
    "build_nature_cnn",
    "build_small_cnn",
    "cross_entropy",
    "describe_body",
    "effective_weight",
    "initialise_",
    "masked",
    "project_",
]
