"""The SimbaV2 body (Lee et al. 2025, Hyperspherical Normalization for Scalable Deep RL, arXiv 2502.15280).

    z = unit(s_0 * W_0 unit([x, 3]))        z <- unit(z + alpha * (unit(V relu(s * U z)) - z)) for each block

Features and the rows of every weight have norm one; `project_` brings rows back after each update. Learned scales s
and alpha stand where norms would have grown. Values are those of the authors' code (dojeon-ai/SimbaV2, read through
copies of its layers): expansion 4, s = sqrt(2 / width) at first, alpha = 1 / (blocks + 1). There heads have blocks of
their own and the critic is a distribution over returns; here heads are the agents' plain linear layers, and
observations and rewards are normalised if `normalize` says so.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SHIFT = 3.0
"""Appended to every input, so that its norm is not lost."""
EXPANSION = 4
EPS = 1e-8


class UnitRows(nn.Linear):
    """Is an nn.Linear without bias whose rows have norm one whenever `project_` has been called."""

    isometry = "sphere"
    """Who sees to its weights: itself, so that no isometry step touches them."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def reset_parameters(self) -> None:
        """Draws an orthogonal weight and projects it."""
        nn.init.orthogonal_(self.weight)
        self.project_()

    @torch.no_grad()
    def project_(self) -> None:
        """Scales every row back to norm one."""
        self.weight.copy_(unit(self.weight))


class Scale(nn.Module):
    """Multiplies features by learned factors, which begin at `start` and are learned as if they were about `rate`.

    Args:
        width: the number of features.
        start: of every factor.
        rate: what the parameter holds at first; the smaller, the faster a step of Adam changes the factor.
    """

    def __init__(self, width: int, start: float, rate: float) -> None:
        super().__init__()
        self.parameter = nn.Parameter(torch.full((width,), rate))
        self.factor = start / rate

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, F) of (B, F)."""
        return self.parameter * self.factor * x


class Embedder(nn.Module):
    """Maps inputs (B, I) to features (B, F) on the sphere."""

    def __init__(self, in_features: int, width: int) -> None:
        super().__init__()
        self.linear = UnitRows(in_features + 1, width)
        self.scale = Scale(width, math.sqrt(2 / width), math.sqrt(2 / width))

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, F) of (B, I)."""
        return unit(self.scale(self.linear(unit(F.pad(x, (0, 1), value=SHIFT)))))


class LerpBlock(nn.Module):
    """Moves features on the sphere a learned share of the way to what a two-layer MLP makes of them."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        inner = EXPANSION * width
        start = math.sqrt(2 / width / EXPANSION)
        self.inner = UnitRows(width, inner)
        self.scale = Scale(inner, start, start)
        self.activation = nn.ReLU()
        self.outer = UnitRows(inner, width)
        self.alpha = Scale(width, 1 / (blocks + 1), 1 / math.sqrt(width))

    def forward(self, z: Tensor) -> Tensor:
        """Returns (B, F) of (B, F)."""
        hidden = self.activation(self.scale(self.inner(z))) + EPS  # a zero vector has no direction
        return unit(z + self.alpha(unit(self.outer(hidden)) - z))


def unit(x: Tensor) -> Tensor:
    """Returns x (..., F) over its norm along the last dimension."""
    return F.normalize(x, dim=-1, eps=EPS)
