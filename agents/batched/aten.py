"""torch's elementary operations in numpy: those that small networks, their losses and their gradients come to.

Arrays of some hundred numbers take numpy a quarter of the time. An operation that is not here is torch's own, on the
same memory. Operations whose name ends in _ write in place, and views stay views, as in torch.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray
aten = torch.ops.aten
f32 = np.float32
_total: Any = np.add.reduce
_largest: Any = np.maximum.reduce
NUMPYS = (np.ndarray, np.generic)


def in_numpy(operation: Any) -> Callable[..., Any]:
    """Returns a function of arrays that does what an operation of torch does with tensors."""
    return OPERATIONS.get(operation) or _by_torch(operation)


def _by_torch(operation: Any) -> Callable[..., Any]:
    def of_arrays(*args: Any, **kwargs: Any) -> Any:
        return _map(
            Tensor, Tensor.numpy, operation(*(_map(NUMPYS, torch.as_tensor, a) for a in args), **kwargs)
        )

    return of_arrays


def _map(kind: Any, function: Callable[[Any], Any], value: Any) -> Any:
    """Applies a function to what is of a kind: to a value, or to those in a list."""
    if isinstance(value, (list, tuple)):
        return type(value)(_map(kind, function, each) for each in value)
    return function(value) if isinstance(value, kind) else value


def columns_of(a: Array) -> Array:
    """Returns the columns (..., K, M) of matrices (..., M, K), the numbers of each together in memory."""
    return np.ascontiguousarray(a.swapaxes(-1, -2))


def product_by_columns(columns: Array, b: Array) -> Array:
    """Multiplies (..., M, K), given by its columns, by (..., K, N), by columns, too."""
    return (b.swapaxes(-1, -2) @ columns).swapaxes(-1, -2)


def _along(index: Array, dim: int) -> tuple[Any, ...]:
    """Does what np.take_along_axis does with its index, in a tenth of the time."""
    grid, dim = _grid(index.shape), dim % index.ndim
    return (*grid[:dim], index, *grid[dim + 1 :])


@cache
def _grid(shape: tuple[int, ...]) -> tuple[Array, ...]:
    return tuple(np.ogrid[tuple(map(slice, shape))])


def _at(a: Array, dim: int, *index: Any) -> tuple[Any, ...]:
    """Returns the index that puts `index` in the place of dimension `dim` of `a`."""
    return (*(slice(None),) * (dim % np.ndim(a)), *index)


def _expand(a: Array, size: Sequence[int]) -> Array:
    own = (1,) * (len(size) - np.ndim(a)) + np.shape(a)
    return np.broadcast_to(a, [old if new == -1 else new for old, new in zip(own, size, strict=True)])


def _squeeze(a: Array, dims: Sequence[int]) -> Array:
    return a.squeeze(tuple(dim for dim in dims if a.shape[dim] == 1))


def _select_backward(gradient: Array, size: Sequence[int], dim: int, index: int) -> Array:
    whole = np.zeros(size, gradient.dtype)
    whole[_at(whole, dim, index)] = gradient
    return whole


def _sum(a: Array, dim: Sequence[int], keepdim: bool = False) -> Array:
    if a.ndim == 3 and list(dim) == [1] and a.strides[1] == a.itemsize and a.dtype == f32:
        # samples that lie together: BLAS adds them up five times as fast
        total = a.swapaxes(1, 2) @ _ones(a.shape[1])
        return total[:, None] if keepdim else total
    return _total(a, tuple(dim), keepdims=keepdim)


@cache
def _ones(count: int) -> Array:
    return np.ones(count, f32)


def _mean(a: Array, dim: Sequence[int], keepdim: bool = False) -> Array:
    total = _total(a, tuple(dim), keepdims=keepdim)
    return total / f32(a.size // max(total.size, 1))


def _std(a: Array, dim: Sequence[int], correction: float = 1, keepdim: bool = False) -> Array:
    away = a - _mean(a, dim, keepdim=True)  # numpy's own takes three times as long
    total = _total(away * away, tuple(dim), keepdims=keepdim)
    return np.sqrt(total / f32(a.size // max(total.size, 1) - correction))


def _clamp(a: Array, low: float | None = None, high: float | None = None) -> Array:
    a = a if low is None else np.maximum(a, f32(low))
    return a if high is None else np.minimum(a, f32(high))


def _masked_fill_(a: Array, mask: Array, value: float) -> Array:
    np.copyto(a, value, where=mask)
    return a


def _scatter_add_(a: Array, dim: int, index: Array, source: Array) -> Array:
    if index.shape[dim] != 1:  # several numbers may go to one place
        return _by_torch(aten.scatter_add_.default)(a, dim, index, source)
    a[_along(index, dim)] += source
    return a


def _log_softmax(a: Array, dim: int, half_to_float: bool = False) -> Array:
    shifted = a - _largest(a, dim, keepdims=True)
    shifted -= np.log(_total(np.exp(shifted), dim, keepdims=True))
    return shifted


def _tanh_backward(gradient: Array, y: Array) -> Array:
    slope = y * y
    np.subtract(f32(1), slope, out=slope)
    slope *= gradient
    return slope


def _cat(arrays: Sequence[Array], dim: int = 0) -> Array:
    """Joins arrays; features (..., B, F) of which the samples lie together in memory stay so."""
    if dim == arrays[0].ndim - 1 and arrays[0].strides[-1] > arrays[0].strides[-2]:
        return np.concatenate([a.swapaxes(-1, -2) for a in arrays], -2).swapaxes(-1, -2)
    return np.concatenate(arrays, dim)


def _split(a: Array, size: int, dim: int = 0) -> list[Array]:
    return [a[_at(a, dim, slice(start, start + size))] for start in range(0, a.shape[dim], size)]


def _mean_of_loss(loss: Array, reduction: int) -> Array:
    return loss if reduction == 0 else _total(loss, None) / f32(loss.size if reduction == 1 else 1)


def _smooth_l1(a: Array, b: Array, reduction: int = 1, beta: float = 1.0) -> Array:
    z = np.abs(a - b)
    return _mean_of_loss(np.where(z < beta, f32(0.5 / beta) * z * z, z - f32(0.5 * beta)), reduction)


OPERATIONS: dict[Any, Callable[..., Any]] = {
    operator.getitem: operator.getitem,
    aten.add.Tensor: lambda a, b, alpha=1: a + b if alpha == 1 else a + alpha * b,
    aten.add_.Tensor: lambda a, b, alpha=1: np.add(a, b if alpha == 1 else alpha * b, out=a),
    aten.sub.Tensor: lambda a, b, alpha=1: a - b if alpha == 1 else a - alpha * b,
    aten.rsub.Scalar: lambda a, b, alpha=1: b - alpha * a,
    aten.div.Tensor: np.divide,
    aten.div.Scalar: np.divide,
    aten.squeeze.dims: _squeeze,
    aten.unsqueeze.default: lambda a, dim: a[_at(a[..., None], dim, None)],
    aten.transpose.int: lambda a, dim, other: a.swapaxes(dim, other),
    aten.select.int: lambda a, dim, index: a[_at(a, dim, index)],
    aten.slice.Tensor: lambda a, dim=0, start=None, end=None, step=1: a[_at(a, dim, slice(start, end, step))],
    aten.split.Tensor: _split,
    aten.cat.default: _cat,
    aten.select_backward.default: _select_backward,
    aten.expand.default: _expand,
    aten.view.default: lambda a, size: a.reshape(size),
    aten.sum.default: lambda a: _total(a, None),
    aten.sum.dim_IntList: _sum,
    aten.mean.dim: _mean,
    aten.std.correction: _std,
    aten.max.dim: lambda a, dim, keepdim=False: (
        _largest(a, dim, keepdims=keepdim), a.argmax(dim, keepdims=keepdim)
    ),
    aten.argmax.default: lambda a, dim=None, keepdim=False: a.argmax(dim, keepdims=keepdim),
    aten.clamp.default: _clamp,
    aten.where.self: np.where,
    aten.masked_fill_.Scalar: _masked_fill_,
    aten.new_zeros.default: lambda a, size, **_: np.zeros(size, f32),
    aten.gather.default: lambda a, dim, index: a[_along(index, dim)],
    aten.scatter_add_.default: _scatter_add_,
    aten.scatter_add.default: lambda a, *rest: _scatter_add_(a.copy(), *rest),
    aten._log_softmax.default: _log_softmax,
    aten.bmm.default: np.matmul,
    aten.relu.default: lambda a: np.maximum(a, f32(0)),
    aten.threshold_backward.default: lambda g, a, threshold: g * (a > threshold),
    aten.tanh_backward.default: _tanh_backward,
    aten.mse_loss.default: lambda a, b, reduction=1: _mean_of_loss(np.square(a - b), reduction),
    aten.mse_loss_backward.default: lambda g, a, b, reduction: (
        f32(2 / a.size if reduction == 1 else 2) * (a - b) * g
    ),
    aten.smooth_l1_loss.default: _smooth_l1,
    aten.smooth_l1_loss_backward.default: lambda g, a, b, reduction, beta: (
        np.clip((a - b) / f32(beta), -1, 1) * (g / f32(a.size) if reduction == 1 else g)
    ),
}  # fmt: skip
"""Operation of torch -> function of numpy with the same arguments."""


def _elementwise(name: str, ufunc: Any) -> None:
    """Files a ufunc under the forms of an operation, and under those that write into their first argument."""

    def in_place(a: Array, *others: Any) -> Array:
        return ufunc(a, *others, out=a)

    for packet, function in ((name, ufunc), (f"{name}_", in_place)):
        for form in ("default", "Tensor", "Scalar", "Tensor_Scalar"):
            if hasattr(aten, packet) and form in getattr(aten, packet).overloads():
                OPERATIONS[getattr(getattr(aten, packet), form)] = function


for _name, _ufunc in {
    "mul": np.multiply, "minimum": np.minimum, "pow": np.power, "eq": np.equal, "lt": np.less, "gt": np.greater,
    "le": np.less_equal, "ge": np.greater_equal, "logical_and": np.logical_and, "exp": np.exp, "neg": np.negative,
    "tanh": np.tanh,
}.items():  # fmt: skip
    _elementwise(_name, _ufunc)
