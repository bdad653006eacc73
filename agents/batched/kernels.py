"""Forward and backward passes of small MLPs in numpy, on the very memory that torch's parameters live in.

For arrays of some thousand numbers a numpy operation takes a third of the time of torch's, and gradients go where
they belong without a graph. Losses, optimizers and methods are not here: autograd differentiates them as ever and asks
these kernels for the layers alone. A layer that is not known here is torch's, or makes its network run plainly.

Shapes: ... nothing for one network, or (S, C) for C networks of each of S runs; B batch, I inputs, O outputs,
F features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch import nn

from isorl.plasticity.networks.activations import MaxMin

LARGEST_PRODUCT = 1 << 18
"""Multiplications in one layer up to which numpy's BLAS stays in one thread and ahead of torch."""
MANY, SMALL_PRODUCT = 16, 1_000_000
"""Samples from which on transposing a layer's inputs pays, and multiplications from which on it does not."""


class Kernel(Protocol):
    """What a layer computes, and how a gradient passes back through it."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Maps inputs (..., B, I) to outputs (..., B, O)."""

    def backward(self, output_grad: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Writes the gradients of the layer's parameters and returns that of its input x; y was its output."""


class NumpyMLP:
    """Computes what a network of linear layers, layer norms and activations computes.

    Args:
        network: on the CPU.
        parameters: arrays to compute with instead of the network's own: (..., *shape) each.
        gradients: arrays that `backward` writes the parameters' gradients to; without them it must not be called.
        largest: the number of weights of the largest layer of the whole network, where `network` is a part of one.

    Raises:
        ValueError: the network has a layer that neither numpy nor an activation without parameters can compute.
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
        self._kernels = [_kernel(module, pairs, self.largest) for module in leaves]

    def is_faster(self, rows: int) -> bool:
        """Tells whether a batch of `rows` inputs is small enough for numpy to be ahead of torch."""
        return rows * self.largest <= LARGEST_PRODUCT

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Maps inputs (..., B, I) float32 to outputs (..., B, O)."""
        for kernel in self._kernels:
            x = kernel.forward(x)
        return x

    def forward_with_cache(self, x: np.ndarray) -> list[np.ndarray]:
        """Returns x and what each layer makes of it; the last entry is the network's output."""
        values = [x]
        for kernel in self._kernels:
            values.append(kernel.forward(values[-1]))
        return values

    def backward(
        self, output_grad: np.ndarray, values: list[np.ndarray], needs_input_grad: bool = True
    ) -> np.ndarray:
        """Writes all parameters' gradients and returns that of the input, if it is needed.

        Args:
            output_grad: the gradient of the last of `values`.
            values: what `forward_with_cache` returned.
            needs_input_grad: False spares the first linear layer a product; what is returned then means nothing.
        """
        gradient = output_grad
        for number in reversed(range(len(self._kernels))):
            kernel, x, y = self._kernels[number], values[number], values[number + 1]
            if number == 0 and not needs_input_grad and isinstance(kernel, Linear):
                kernel.accumulate_grads(gradient, x)
            else:
                gradient = kernel.backward(gradient, x, y)
        return gradient


class Linear:
    """y = x W^T + b.

    BLAS multiplies small matrices row by row at a third of its speed for row by column, so there x is transposed, and
    of y, and of the gradient of x, the samples of a feature lie together in memory.

    Args:
        weight: W (..., O, I), and where its gradient goes.
        bias: b (..., O), and where its gradient goes.
        largest: the number of weights of the largest layer of its network, whose layers all transpose or none.
    """

    def __init__(
        self, weight: tuple[np.ndarray, np.ndarray], bias: tuple[np.ndarray, np.ndarray], largest: int
    ) -> None:
        (self._W, self._W_grad), (b, self._b_grad) = weight, bias
        self._W_T, self._row, self._column = self._W.swapaxes(-1, -2), b[..., None, :], b[..., None]
        self._largest = largest

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Maps (..., B, I) to (..., B, O)."""
        if self._transposes(x):
            y = self._W @ np.ascontiguousarray(x.swapaxes(-1, -2))
            y += self._column
            return y.swapaxes(-1, -2)
        y = x @ self._W_T
        y += self._row
        return y

    def _transposes(self, x: np.ndarray) -> bool:
        samples = x.shape[-2]
        return samples >= MANY and samples * self._largest < SMALL_PRODUCT

    def accumulate_grads(self, output_grad: np.ndarray, x: np.ndarray) -> None:
        """Writes the gradients of W and b, summed over the batch."""
        np.matmul(output_grad.swapaxes(-1, -2), np.ascontiguousarray(x), out=self._W_grad)
        np.add.reduce(output_grad, -2, out=self._b_grad)

    def backward(self, output_grad: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Returns the gradient of x: (..., B, O) -> (..., B, I)."""
        self.accumulate_grads(output_grad, x)
        if self._transposes(x):
            return (self._W_T @ np.ascontiguousarray(output_grad.swapaxes(-1, -2))).swapaxes(-1, -2)
        return output_grad @ self._W


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
        (w, self._w_grad), (b, self._b_grad) = weight, bias
        self._w, self._b, self._eps = w[..., None, :], b[..., None, :], eps

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Maps (..., B, F) to the same shape."""
        h, _ = self._normalised(x)
        h *= self._w
        h += self._b
        return h

    def backward(self, output_grad: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Returns (g - mean(g) - h mean(g h)) / deviation, with g the gradient of the output times w."""
        h, deviation = self._normalised(x)
        np.add.reduce(output_grad * h, -2, out=self._w_grad)
        np.add.reduce(output_grad, -2, out=self._b_grad)
        g = output_grad * self._w
        return (g - _mean(g) - h * _mean(g * h)) / deviation

    def _normalised(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        h = x - _mean(x)
        deviation = np.sqrt(_mean(h * h) + self._eps)
        h /= deviation
        return h, deviation


class ReLU:
    """y = max(x, 0)."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Keeps the shape."""
        return np.maximum(x, 0.0)

    def backward(self, output_grad: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Lets the gradient pass where x > 0."""
        return output_grad * (y > 0)


class Tanh:
    """y = tanh(x), of which numpy's takes a tenth of torch's time."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Keeps the shape."""
        return np.tanh(x)

    def backward(self, output_grad: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Multiplies by the derivative 1 - y^2."""
        slope = y * y
        np.subtract(1.0, slope, out=slope)
        slope *= output_grad
        return slope


class NumpyMaxMin:
    """MaxMin: the larger of each pair (i, i + F/2) first, then the smaller ones."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Keeps the shape."""
        (a, b), y = _halves(x), np.empty_like(x)
        np.maximum(a, b, out=y[..., : a.shape[-1]])
        np.minimum(a, b, out=y[..., a.shape[-1] :])
        return y

    def backward(self, output_grad: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Swaps the two of a pair where they were swapped: a permutation also where they are equal."""
        (a, b), (larger, smaller) = _halves(x), _halves(output_grad)
        stays = (larger - smaller) * (a > b)
        return _concat(smaller + stays, larger - stays)


class Reshape:
    """Flattens inputs (B, ...) to (B, I)."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Maps (B, ...) to (B, I)."""
        return x.reshape(len(x), -1)

    def backward(self, output_grad: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Gives the gradient the shape of x."""
        return output_grad.reshape(x.shape)


class TorchActivation:
    """A module without parameters that acts on the last dimension, computed and differentiated by torch.

    Args:
        module: such a one.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Maps (..., F) to (..., O)."""
        with torch.no_grad():
            return self._module(torch.from_numpy(x)).numpy()

    def backward(self, output_grad: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Differentiates the module by autograd."""
        leaf = torch.from_numpy(x).requires_grad_()
        with torch.enable_grad():
            found = torch.autograd.grad(self._module(leaf), leaf, torch.from_numpy(output_grad))
        return found[0].numpy()


KERNELS: dict[type[nn.Module], Callable[[], Kernel]] = {
    nn.Flatten: Reshape,
    nn.ReLU: ReLU,
    nn.Tanh: Tanh,
    MaxMin: NumpyMaxMin,
}
"""Modules without parameters that numpy computes. Hooks on modules are not called: measurements run the modules."""


def _kernel(module: nn.Module, pairs: Iterator[tuple[np.ndarray, np.ndarray]], largest: int) -> Kernel:
    """Makes the kernel of `module`, with the next of the parameters and of the places of their gradients."""
    if type(module) is nn.Linear and module.bias is not None:  # a subclass may multiply by another weight
        return Linear(next(pairs), next(pairs), largest)
    if type(module) is nn.LayerNorm and module.bias is not None and len(module.normalized_shape) == 1:
        return LayerNorm(next(pairs), next(pairs), module.eps)
    along_features = getattr(module, "dim", -1) == -1
    if along_features and type(module) in KERNELS:
        return KERNELS[type(module)]()
    if not along_features or any(True for _ in module.parameters()) or any(True for _ in module.buffers()):
        raise ValueError(f"no kernel computes the layer {module}")
    return TorchActivation(module)


def _mean(x: np.ndarray) -> np.ndarray:
    """Means (..., 1) over the features of (..., F)."""
    return np.add.reduce(x, -1, keepdims=True) / x.shape[-1]


def _halves(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    half = x.shape[-1] // 2
    return x[..., :half], x[..., half:]


def _concat(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Puts features (..., B, F) beside each other, (..., B, 2 F), the samples of a feature together in memory."""
    return np.concatenate((left.swapaxes(-1, -2), right.swapaxes(-1, -2)), -2).swapaxes(-1, -2)
