"""Activations by name. An entry says how to build one along a feature dimension and what its layer needs.

GroupSort and MaxMin (Anil, Lucas & Grosse 2019, arXiv 1811.05381) permute their inputs, so they preserve the
norm of every gradient; with orthogonal weights they approximate every 1-Lipschitz function. A module's
`isometric` says that its Jacobian J has J^T J = 1 almost everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isorl.plasticity.registry import Registry

ELEMENTWISE = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Tanh,
    nn.Softplus,
)
"""torch's own of which an output depends on one input, and an input feeds one output."""


@dataclass(frozen=True)
class Activation:
    """Says how to build an activation, and what it asks of the layer before it.

    Args:
        build: from the feature dimension (-1 for vectors, -3 for images) to a module.
        gain: the gain of an orthogonal weight that keeps the signal's scale.
        group: the number of features it mixes; a width must be a multiple of it.
        copies: how many features it gives out for each that it reads; its layer is that much narrower, so
            that a width always counts the features which the next layer reads.
    """

    build: Callable[[int], nn.Module]
    gain: float = 1.0
    group: int = 1
    copies: int = 1


class GroupSort(nn.Module):
    """Sorts groups of `size` consecutive features, so its Jacobian is a permutation almost everywhere."""

    isometric = True

    def __init__(self, size: int, dim: int = -1):
        super().__init__()
        self.size, self.dim = size, dim

    def forward(self, x: Tensor) -> Tensor:
        """Returns the shape of `x`; its size along `dim` must be a multiple of the group."""
        dim = self.dim % x.ndim
        return x.unflatten(dim, (-1, self.size)).sort(dim + 1).values.flatten(dim, dim + 1)

    def extra_repr(self) -> str:
        """Returns the options, for printing."""
        return f"size={self.size}, dim={self.dim}"


class MaxMin(nn.Module):
    """Sorts groups of two: the larger of each pair (i, i + O/2) first, then the smaller ones.

    Written with a single ReLU, max(a, b) = b + (a - b)^+ and min(a, b) = a - (a - b)^+: several times faster
    in the backward pass than maximum and minimum, and a permutation also where a = b. Values are exact up to
    the rounding of the larger of the two.
    """

    isometric = True

    def __init__(self, dim: int = -1):
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Returns the shape of `x`; its size along `dim` must be even."""
        a, b = x.chunk(2, self.dim)
        excess = torch.relu(a - b)
        return torch.cat((b + excess, a - excess), self.dim)

    def extra_repr(self) -> str:
        """Returns the options, for printing."""
        return f"dim={self.dim}"


class CReLU(nn.Module):
    """Concatenates relu(x) and relu(-x) (Shang et al. 2016, arXiv 1603.05201): one of the two always passes."""

    copies, isometric = 2, True

    def __init__(self, dim: int = -1):
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Returns twice the size of `x` along `dim`."""
        return torch.cat((x, -x), self.dim).relu()


class DeepFourier(nn.Module):
    """Concatenates sin(x) and cos(x) (Lewandowski et al. 2024, arXiv 2410.20634): one is always near linear."""

    copies, isometric = 2, True

    def __init__(self, dim: int = -1):
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Returns twice the size of `x` along `dim`."""
        return torch.cat((x.sin(), x.cos()), self.dim)


ACTIVATIONS: Registry[Activation] = Registry("activation")
# sqrt 2 is also what Stable-Baselines3 and the PPO literature use for tanh.
ACTIVATIONS.register("relu")(Activation(lambda dim: nn.ReLU(), gain=math.sqrt(2)))
ACTIVATIONS.register("tanh")(Activation(lambda dim: nn.Tanh(), gain=math.sqrt(2)))
ACTIVATIONS.register("leaky_relu")(Activation(lambda dim: nn.LeakyReLU(), gain=math.sqrt(2 / (1 + 0.01**2))))
ACTIVATIONS.register("prelu")(Activation(lambda dim: nn.PReLU(), gain=math.sqrt(2 / (1 + 0.25**2))))
ACTIVATIONS.register("crelu")(Activation(CReLU, gain=math.sqrt(2), group=2, copies=2))
ACTIVATIONS.register("deep_fourier")(Activation(DeepFourier, gain=math.sqrt(2), group=2, copies=2))
ACTIVATIONS.register("maxmin")(Activation(MaxMin, group=2))
ACTIVATIONS.register("groupsort")(Activation(lambda dim: GroupSort(4, dim), group=4))
ACTIVATIONS.register("identity")(Activation(lambda dim: nn.Identity()))
