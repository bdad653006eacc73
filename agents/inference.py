"""Small MLPs answered in numpy, on the very weights that torch trains: a quarter of the time for a few rows.

The arrays share the parameters' memory, so updates in place are seen; whoever puts new modules in place builds anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from torch import Tensor, nn

from plasticity.networks.activations import MaxMin

Layer = Callable[[np.ndarray], np.ndarray]

LARGEST_PRODUCT = 1 << 18
"""Multiplications in one layer up to which numpy's BLAS stays in one thread and ahead of torch."""


class NumpyMlp:
    """What a network of linear layers and known activations computes.

    Args:
        network: on the CPU.
        parameters: those to compute with instead of its own; of K networks like it: (K, *shape) each.

    Raises:
        ValueError: a layer that is not known here.
    """

    def __init__(self, network: nn.Module, parameters: Iterable[Tensor] | None = None) -> None:
        arrays = [p.detach().numpy() for p in (network.parameters() if parameters is None else parameters)]
        of_layers = iter(arrays)
        leaves = [module for module in network.modules() if not isinstance(module, nn.Sequential)]
        self._layers = [_layer(module, of_layers) for module in leaves]
        self._largest = max((m.weight.numel() for m in leaves if isinstance(m, nn.Linear)), default=0)

    def suits(self, rows: int) -> bool:
        """Whether `rows` inputs are few enough for numpy to be the faster one."""
        return rows * self._largest <= LARGEST_PRODUCT

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(B, I) float32 -> (B, O); of K networks (K, B, I) -> (K, B, O)."""
        for layer in self._layers:
            x = layer(x)
        return x


def _layer(module: nn.Module, parameters: Iterator[np.ndarray]) -> Layer:
    if type(module) is nn.Linear:  # a subclass may multiply by another weight
        W, b = next(parameters).swapaxes(-1, -2), next(parameters)[..., None, :]
        return lambda x: x @ W + b
    if type(module) not in ACTIVATIONS:
        raise ValueError(f"numpy does not know the layer {module}")
    return ACTIVATIONS[type(module)]


def _maxmin(x: np.ndarray) -> np.ndarray:
    half = x.shape[-1] // 2
    a, b, both = x[..., :half], x[..., half:], np.empty_like(x)
    np.maximum(a, b, out=both[..., :half])
    np.minimum(a, b, out=both[..., half:])
    return both


ACTIVATIONS: dict[type[nn.Module], Layer] = {
    nn.Flatten: lambda x: x.reshape(len(x), -1),
    nn.Identity: lambda x: x,
    nn.ReLU: lambda x: np.maximum(x, 0.0),
    nn.Tanh: np.tanh,
    MaxMin: _maxmin,
}
"""Module -> what it computes. Hooks on modules are not called: measurements run the modules themselves."""
