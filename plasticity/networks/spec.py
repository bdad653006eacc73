"""What a network body is, as data that a configuration file can hold."""

from __future__ import annotations

import math
from dataclasses import dataclass

from isorl.plasticity.networks.activations import ACTIVATIONS, Activation
from isorl.plasticity.registry import Registry, unknown_name

ISOMETRIES = ("none", "soft", "projected", "hard")
ARCHITECTURES = ("plain", "simba_v2")
BODIES = ("auto", "mlp", "small_cnn", "nature_cnn")
CONVOLUTIONS = ("auto", "overlapping", "patches")


@dataclass(frozen=True)
class NetworkSpec:
    """Describes a body: its widths, activation and the way its weights are kept orthogonal.

    Args:
        widths: hidden widths of an MLP.
        activation: a name in ACTIVATIONS.
        layer_norm: LayerNorm between each weight and its activation.
        isometry: none: a plain body. The others start orthogonal: soft is left to AdamO, projected is pulled
            back by `project_` after each update, hard is orthogonal by parametrization at every moment.
        gain: singular value of the orthogonal initialisation (and, projected or hard, of every weight ever
            after). None: the activation's own for an isometric body; a plain body keeps torch's
            initialisation, for the caller to decide.
        spectral_norm: every weight is divided by its largest singular value; for plain bodies.
        architecture: plain: a chain of layers. simba_v2: features and weights on the sphere (hypersphere.py), a layer
            of the first width and a block for each further one, all of one width; after the convolutions of the
            Nature CNN for images.
        body: mlp (images are flattened), small_cnn, nature_cnn, or auto: an MLP for vectors, for images the
            Nature CNN from 36 x 36 pixels on and the small CNN below (`body_for`).
        convolutions: of a CNN. overlapping: those of the body's paper; where weights are kept orthogonal these are the
            reshaped kernels, whose layers stretch by up to kernel / stride. patches: none overlap, and each layer is
            as isometric as its weight. auto, the default before: patches with any isometry, overlapping without.
    """

    widths: tuple[int, ...] = (64, 64)
    activation: str = "relu"
    layer_norm: bool = False
    isometry: str = "none"
    gain: float | None = None
    spectral_norm: bool = False
    architecture: str = "plain"
    body: str = "auto"
    convolutions: str = "overlapping"

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))  # configuration files give lists
        if self.body not in BODIES:
            raise unknown_name("body", self.body, list(BODIES))
        if self.convolutions not in CONVOLUTIONS:
            raise unknown_name("convolutions", self.convolutions, list(CONVOLUTIONS))
        if self.isometry not in ISOMETRIES:
            raise unknown_name("isometry", self.isometry, list(ISOMETRIES))
        for width in self.widths:
            self.check_width(width)
        if self.gain is not None and not (math.isfinite(self.gain) and self.gain > 0):
            raise ValueError(f"gain is a singular value and must be positive, got {self.gain}")
        if self.spectral_norm and self.isometry != "none":
            raise ValueError(
                f"spectral_norm=True and isometry={self.isometry!r} both set the singular values; choose one"
            )
        if self.spectral_norm and self.has_patches:
            raise ValueError(
                "spectral_norm=True divides the kernels of overlapping convolutions; with it use "
                "convolutions='overlapping', or for patches isometry='soft' instead of spectral_norm"
            )
        if self.layer_norm and self.isometry in ("projected", "hard"):
            raise ValueError(
                f"layer_norm=True undoes isometry={self.isometry!r}: LayerNorm rescales each sample, so the "
                "body would not be 1-Lipschitz; use isometry='soft' or layer_norm=False"
            )
        if self.architecture not in ARCHITECTURES:
            raise unknown_name("architecture", self.architecture, list(ARCHITECTURES))
        if self.architecture == "simba_v2":
            self._check_simba()

    def _check_simba(self) -> None:
        """Refuses what the body has of its own, or cannot have."""
        plain = NetworkSpec(widths=self.widths, gain=self.gain)
        for name in ("activation", "layer_norm", "isometry", "spectral_norm"):
            value, own = getattr(self, name), getattr(plain, name)
            if value != own:
                raise ValueError(
                    f"architecture='simba_v2' and {name}={value!r} cannot combine: the body holds norms and weights "
                    f"on the sphere itself, with ReLU; use {name}={own!r}, or network=relu"
                )
        if len(set(self.widths)) != 1:
            raise ValueError(
                f"architecture='simba_v2' has features of one width, got widths {list(self.widths)}; "
                f"use for example {[*self.widths[:1], *self.widths[:1]] or [64, 64]}"
            )

    @property
    def has_patches(self) -> bool:
        """Returns whether the convolutions of a CNN are over patches that do not overlap."""
        return self.convolutions == "patches" or (self.convolutions == "auto" and self.isometry != "none")

    @property
    def is_projected(self) -> bool:
        """Returns whether its weights are brought back by `project_` after each update."""
        return self.isometry == "projected" or self.architecture == "simba_v2"

    @property
    def unit(self) -> Activation:
        """Returns the registered activation."""
        return ACTIVATIONS[self.activation]

    @property
    def orthogonal_gain(self) -> float | None:
        """Returns the gain of the orthogonal initialisation; None where the body keeps torch's own."""
        if self.gain is None and (self.isometry != "none" or self.architecture != "plain"):
            return self.unit.gain
        return self.gain

    def check_width(self, width: int) -> None:
        """Refuses a width that the activation cannot divide, naming the nearest that it can."""
        group = self.unit.group
        if width < 1:
            raise ValueError(f"a width must be at least 1, got {width}")
        if width % group:
            nearest = max(group, group * math.floor(width / group + 0.5))
            raise ValueError(
                f"{self.activation} sorts groups of {group} features, so a width of {width} leaves a "
                f"remainder; the nearest that fits is {nearest}"
            )


NETWORKS: Registry[NetworkSpec] = Registry("network")
"""Name on the command line (`network=NAME`) -> what it is, for networks without a YAML file."""
