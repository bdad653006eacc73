"""Small MLPs in numpy, on the very weights that torch trains: what they answer, and the gradients they learn from.

For arrays of some thousand numbers an operation of numpy takes a third of the time of torch's, tanh a tenth, and
gradients go where they belong without a graph being made. The arrays share the parameters' memory, so updates in place
are seen; whoever puts new modules in place builds anew.

Shapes: ... nothing for one network, or (S, C) for many at once; B batch, I inputs, O outputs, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from isorl.plasticity.networks.activations import CReLU, DeepFourier, GroupSort, MaxMin

LARGEST_PRODUCT = 1 << 18
"""Multiplications in one layer up to which numpy's BLAS stays in one thread and ahead of torch."""
MANY, SMALL_PRODUCT = 16, 1_000_000
"""Samples from which on it pays to turn a layer's inputs over, multiplications from which on it does not."""


class Layer(Protocol):
    """What a layer computes, and how a gradient passes back through it."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(..., B, I) -> (..., B, O)."""

    def back(self, gradient: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The gradient by y -> that by x; those by the layer's parameters are written where they belong."""


class NumpyMlp:
    """What a network of linear layers, layer norms and known activations computes.

    Args:
        network: on the CPU.
        parameters: arrays to compute with instead of its own: (..., *shape) each.
        gradients: where the gradients by them go; None: `back` is not called.
        largest: weights of the largest layer of the network that this one is a part of; 0: it is the whole.

    Raises:
        ValueError: a layer that is not known here.
    """

    def __init__(
        self,
        network: nn.Module,
        parameters: Iterable[np.ndarray] | None = None,
        gradients: Iterable[np.ndarray] | None = None,
        largest: int = 0,
    ) -> None:
        own = [p.detach().numpy() for p in network.parameters()] if parameters is None else list(parameters)
        pairs = iter(zip(own, own if gradients is None else gradients, strict=True))
        leaves = [module for module in network.modules() if not isinstance(module, nn.Sequential)]
        self.largest = max([largest, *(m.weight.numel() for m in leaves if isinstance(m, nn.Linear))])
        self._layers = [_layer(module, pairs, self.largest) for module in leaves]

    def suits(self, rows: int) -> bool:
        """Whether `rows` inputs are few enough for numpy to be the faster one."""
        return rows * self.largest <= LARGEST_PRODUCT

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(..., B, I) float32 -> (..., B, O)."""
        for layer in self._layers:
            x = layer(x)
        return x

    def trace(self, x: np.ndarray) -> list[np.ndarray]:
        """x, then what each layer gives: the last is the answer."""
        values = [x]
        for layer in self._layers:
            values.append(layer(values[-1]))
        return values

    def hidden(self, x: np.ndarray) -> list[np.ndarray]:
        """What each linear layer but the first reads, and the answer: of a body, the outputs of its hidden layers."""
        values = self.trace(x)
        read = [
            value for value, layer in zip(values, self._layers, strict=False) if isinstance(layer, Linear)
        ]
        return [*read[1:], values[-1]]

    def back(self, gradient: np.ndarray, values: list[np.ndarray], by_input: bool = True) -> np.ndarray:
        """The gradient by the answer of `trace` -> that by its input, where it is wanted; writes all others."""
        for number in reversed(range(len(self._layers))):
            layer, x, y = self._layers[number], values[number], values[number + 1]
            if number == 0 and not by_input and isinstance(layer, Linear):
                layer.learn(gradient, x)
            else:
                gradient = layer.back(gradient, x, y)
        return gradient


class Linear:
    """y = x W^T + b.

    BLAS multiplies small matrices row by row at a third of its speed for row by column, so there x is turned over, and
    of y, and of the gradient by x, the samples of a feature lie together in memory.

    Args:
        weight: (..., O, I), and where its gradient goes.
        bias: (..., O), and where its gradient goes.
        largest: weights of the largest layer of its network, whose layers all turn over or none.
    """

    def __init__(
        self, weight: tuple[np.ndarray, np.ndarray], bias: tuple[np.ndarray, np.ndarray], largest: int
    ) -> None:
        (self._W, self._of_W), (b, self._of_b) = weight, bias
        self._W_T, self._row, self._column = self._W.swapaxes(-1, -2), b[..., None, :], b[..., None]
        self._largest = largest

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(..., B, I) -> (..., B, O)."""
        if self._turns(x):
            y = self._W @ np.ascontiguousarray(x.swapaxes(-1, -2))
            y += self._column
            return y.swapaxes(-1, -2)
        y = x @ self._W_T
        y += self._row
        return y

    def _turns(self, x: np.ndarray) -> bool:
        samples = x.shape[-2]
        return samples >= MANY and samples * self._largest < SMALL_PRODUCT

    def learn(self, gradient: np.ndarray, x: np.ndarray) -> None:
        """Writes the gradients by W and b."""
        np.matmul(gradient.swapaxes(-1, -2), np.ascontiguousarray(x), out=self._of_W)
        np.add.reduce(gradient, -2, out=self._of_b)

    def back(self, gradient: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(..., B, O) -> (..., B, I)."""
        self.learn(gradient, x)
        if self._turns(x):
            return (self._W_T @ np.ascontiguousarray(gradient.swapaxes(-1, -2))).swapaxes(-1, -2)
        return gradient @ self._W


class LayerNorm:
    """y = h w + b, with h = (x - mean) / sqrt(variance + eps) over the features (Ba et al. 2016).

    Args:
        weight: w (..., F), and where its gradient goes.
        bias: b (..., F), and where its gradient goes.
        eps: added to the variance.
    """

    def __init__(
        self, weight: tuple[np.ndarray, np.ndarray], bias: tuple[np.ndarray, np.ndarray], eps: float
    ) -> None:
        (w, self._of_w), (b, self._of_b) = weight, bias
        self._w, self._b, self._eps = w[..., None, :], b[..., None, :], eps

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(..., B, F), the same shape."""
        h, _ = self._normalised(x)
        h *= self._w
        h += self._b
        return h

    def back(self, gradient: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """By x: (g - mean(g) - h mean(g h)) / deviation, with g the gradient times w."""
        h, deviation = self._normalised(x)
        np.add.reduce(gradient * h, -2, out=self._of_w)
        np.add.reduce(gradient, -2, out=self._of_b)
        g = gradient * self._w
        return (g - _mean(g) - h * _mean(g * h)) / deviation

    def _normalised(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        h = x - _mean(x)
        deviation = np.sqrt(_mean(h * h) + self._eps)
        h /= deviation
        return h, deviation


class ReLU:
    """max(x, 0)."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The same shape."""
        return np.maximum(x, 0.0)

    def back(self, gradient: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Passes where x > 0."""
        return gradient * (y > 0)


class LeakyReLU:
    """max(x, slope x), for slopes up to 1."""

    def __init__(self, slope: float) -> None:
        self._slope = np.float32(slope)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The same shape."""
        return np.maximum(x, self._slope * x)

    def back(self, gradient: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Passes whole where x > 0, elsewhere by the slope."""
        return np.where(x > 0, gradient, self._slope * gradient)


class Tanh:
    """tanh(x)."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The same shape."""
        return np.tanh(x)

    def back(self, gradient: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The derivative is 1 - tanh^2."""
        slope = y * y
        np.subtract(1.0, slope, out=slope)
        slope *= gradient
        return slope


class Identity:
    """x."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Gives x itself."""
        return x

    def back(self, gradient: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The gradient itself."""
        return gradient


class Flat:
    """(B, ...) -> (B, I), for inputs alone."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(B, ...) -> (B, I)."""
        return x.reshape(len(x), -1)

    def back(self, gradient: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """In the shape of x."""
        return gradient.reshape(x.shape)


class PairSort:
    """MaxMin: the larger of each pair (i, i + F/2) first, then the smaller ones."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The same shape."""
        (a, b), y = _halves(x), np.empty_like(x)
        np.maximum(a, b, out=y[..., : a.shape[-1]])
        np.minimum(a, b, out=y[..., a.shape[-1] :])
        return y

    def back(self, gradient: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Changes the two of a pair where they were changed; a permutation also where they are equal."""
        (a, b), (larger, smaller) = _halves(x), _halves(gradient)
        stays = (larger - smaller) * (a > b)
        return _joined(smaller + stays, larger - stays)


class BothReLUs:
    """CReLU: relu(x) and relu(-x)."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(..., F) -> (..., 2 F)."""
        return np.maximum(_joined(x, -x), 0.0)

    def back(self, gradient: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(..., 2 F) -> (..., F)."""
        passes, negated = _halves(gradient * (y > 0))
        return passes - negated


class Waves:
    """DeepFourier: sin(x) and cos(x)."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(..., F) -> (..., 2 F)."""
        return _joined(np.sin(x), np.cos(x))

    def back(self, gradient: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The derivatives are cos and -sin."""
        (of_sin, of_cos), (sin, cos) = _halves(gradient), _halves(y)
        return of_sin * cos - of_cos * sin


class ByTorch:
    """A module without parameters that acts on the last dimension, as torch computes and derives it.

    Args:
        module: such a one.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(..., F) -> (..., O)."""
        return self._module(torch.from_numpy(x)).numpy()

    def back(self, gradient: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """By autograd."""
        leaf = torch.from_numpy(x).requires_grad_()
        with torch.enable_grad():
            found = torch.autograd.grad(self._module(leaf), leaf, torch.from_numpy(gradient))
        return found[0].numpy()


LAYERS: dict[type[nn.Module], Callable[[Any], Layer]] = {
    nn.Flatten: lambda module: Flat(),
    nn.Identity: lambda module: Identity(),
    nn.ReLU: lambda module: ReLU(),
    nn.LeakyReLU: lambda module: LeakyReLU(module.negative_slope),
    nn.Tanh: lambda module: Tanh(),
    MaxMin: lambda module: PairSort(),
    CReLU: lambda module: BothReLUs(),
    DeepFourier: lambda module: Waves(),
    GroupSort: ByTorch,
}
"""Modules without parameters. Hooks on modules are not called: measurements run the modules themselves."""


def _layer(module: nn.Module, pairs: Iterator[tuple[np.ndarray, np.ndarray]], largest: int) -> Layer:
    """The layer of `module`, with the next of the parameters and of the places of their gradients."""
    if type(module) is nn.Linear and module.bias is not None:  # a subclass may multiply by another weight
        return Linear(next(pairs), next(pairs), largest)
    if type(module) is nn.LayerNorm and module.bias is not None and len(module.normalized_shape) == 1:
        return LayerNorm(next(pairs), next(pairs), module.eps)
    if type(module) not in LAYERS or getattr(module, "dim", -1) != -1:
        raise ValueError(f"numpy does not know the layer {module}")
    return LAYERS[type(module)](module)


def _mean(x: np.ndarray) -> np.ndarray:
    """(..., F) -> (..., 1)."""
    return np.add.reduce(x, -1, keepdims=True) / x.shape[-1]


def _halves(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    half = x.shape[-1] // 2
    return x[..., :half], x[..., half:]


def _joined(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(..., B, F) twice -> (..., B, 2 F), features together in memory."""
    return np.concatenate((left.swapaxes(-1, -2), right.swapaxes(-1, -2)), -2).swapaxes(-1, -2)
