"""Linear and convolution layers whose weight matrix is kept orthogonal: projected or hard.

A hard layer uses gain L^-1 W in place of its parameter W (L L^T = W W^T), so it is orthogonal at every moment.
A projected layer uses W itself and `project_` pulls it back after each optimizer step by Newton-Schulz.
Orthogonal means that all min(O, I) singular values equal the gain; a layer that shrinks dimensions still has
the others zero, and so is 1-Lipschitz at gain 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isorl.plasticity.linalg import newton_schulz_, orthogonalise
from isorl.plasticity.networks.hypersphere import UnitRows
from isorl.plasticity.networks.spectral import SpectralConv2d, SpectralLinear, spectral_weight


class IsometricLinear(nn.Linear):
    """Is an nn.Linear with an orthogonal weight (O, I)."""

    def __init__(self, in_features: int, out_features: int, isometry: str, gain: float = 1.0):
        super().__init__(in_features, out_features)
        self.isometry, self.gain = isometry, gain

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, O) of (B, I)."""
        return F.linear(x, effective_weight(self), self.bias)

    def extra_repr(self) -> str:
        """Returns the options, for printing."""
        return f"{super().extra_repr()}, isometry={self.isometry}, gain={self.gain:.4g}"


class IsometricConv2d(nn.Conv2d):
    """Is an nn.Conv2d whose reshaped kernel (O, C k k) is orthogonal.

    Where patches overlap the layer is no isometry: its Jacobian's singular values only stay below k / stride.
    """

    def __init__(
        self, in_channels: int, out_channels: int, size: int, stride: int, isometry: str, gain: float = 1.0
    ):
        super().__init__(in_channels, out_channels, size, stride)
        self.isometry, self.gain = isometry, gain

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, O, H', W') of (B, C, H, W), as nn.Conv2d does."""
        return F.conv2d(x, effective_weight(self), self.bias, self.stride)

    def extra_repr(self) -> str:
        """Returns the options, for printing."""
        return f"{super().extra_repr()}, isometry={self.isometry}, gain={self.gain:.4g}"


class PatchConv2d(IsometricConv2d):
    """Convolves non-overlapping patches, and so is exactly as isometric as its weight (O, C k k).

    Overlap comes from `Shift` instead. Sizes that k does not divide are padded with zeros, which changes no norm.
    """

    def __init__(self, in_channels: int, out_channels: int, size: int, isometry: str, gain: float = 1.0):
        super().__init__(in_channels, out_channels, size, size, isometry, gain)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, O, ceil(H / k), ceil(W / k)) of (B, C, H, W)."""
        return super().forward(self.pad(x))

    def pad(self, x: Tensor) -> Tensor:
        """Returns `x` with zeros to the right and below, up to whole patches."""
        k = self.kernel_size[0]
        right, below = -x.shape[-1] % k, -x.shape[-2] % k
        return F.pad(x, (0, right, 0, below)) if right or below else x


class Shift(nn.Module):
    """Rolls a quarter of the channels by `step` down and a quarter to the right: a permutation, an isometry.

    With an orthogonal mix of the channels on either side it is the building block [P, I - P] of orthogonal
    convolutions (Xiao et al. 2018, arXiv 1806.05393; Li et al. 2019, arXiv 1911.00937), P = Q^T diag(1, 0) Q:
    patches see past their borders while every weight stays one plain orthogonal matrix.
    """

    def __init__(self, step: int = 1):
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, C, H, W) of (B, C, H, W), wrapped around at the borders."""
        quarter = x.shape[-3] // 4
        down, right, rest = x.split((quarter, quarter, x.shape[-3] - 2 * quarter), dim=-3)
        return torch.cat((down.roll(self.step, -2), right.roll(self.step, -1), rest), dim=-3)

    def extra_repr(self) -> str:
        """Returns the options, for printing."""
        return f"step={self.step}"


def effective_weight(layer: nn.Module) -> Tensor:
    """Returns the weight a linear or convolution layer multiplies by: orthogonal if hard, divided if spectral."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    if isinstance(layer, SpectralLinear | SpectralConv2d):
        return spectral_weight(layer)
    if getattr(layer, "isometry", None) != "hard":
        return weight
    return orthogonalise(weight, layer.gain)  # type: ignore[arg-type]


def project_(module: nn.Module, iterations: int | None = None) -> None:
    """Pulls every layer built with isometry="projected" back to its orthogonal manifold, and unit rows to norm one.

    Learners call it after each optimizer step; where there is no such layer in `module` it does nothing. See
    `newton_schulz_` for how near it comes and for `iterations`.
    """
    for layer in module.modules():
        if isinstance(layer, UnitRows):
            layer.project_()
        elif getattr(layer, "isometry", None) == "projected":
            newton_schulz_(layer.weight, layer.gain, iterations)  # type: ignore[arg-type]
