"""Spectral normalisation (Miyato et al. 2018, arXiv 1802.05957; Gogianu et al. 2021, arXiv 2105.05246, in DQN).

    v = W^T u / |W^T u|     u = W v / |W v|     sigma = u^T W v     the layer multiplies by W / sigma

One power iteration per training pass. u is a buffer whose name begins with "running_", which Stable-Baselines3
copies to a target network together with its parameters; torch's own parametrization would leave it behind.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isorl.plasticity.linalg import as_matrix


class SpectralLinear(nn.Linear):
    """Is an nn.Linear that divides its weight (O, I) by an estimate of its largest singular value."""

    isometry = "spectral"
    running_u: Tensor

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features)
        self.register_buffer("running_u", F.normalize(torch.randn(out_features), dim=0))

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, O) of (B, I)."""
        return F.linear(x, spectral_weight(self), self.bias)


class SpectralConv2d(nn.Conv2d):
    """Is an nn.Conv2d that divides its kernel, as a matrix (O, I k k), likewise."""

    isometry = "spectral"
    running_u: Tensor

    def __init__(self, in_channels: int, out_channels: int, size: int, stride: int):
        super().__init__(in_channels, out_channels, size, stride)
        self.register_buffer("running_u", F.normalize(torch.randn(out_channels), dim=0))

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, O, H', W') of (B, C, H, W)."""
        return F.conv2d(x, spectral_weight(self), self.bias, self.stride)


def spectral_weight(layer: SpectralLinear | SpectralConv2d) -> Tensor:
    """Returns W / sigma, sigma differentiated through W only; in training mode u moves one iteration on."""
    W = as_matrix(layer.weight)
    with torch.no_grad():
        u, v = layer.running_u, F.normalize(W.mT @ layer.running_u, dim=0)
        if layer.training:
            u = F.normalize(W @ v, dim=0)
            layer.running_u.copy_(u)
    return layer.weight / torch.dot(u, W @ v)
