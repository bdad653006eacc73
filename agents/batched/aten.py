"""torch's elementary operations in numpy: those that the losses of small networks and their gradients come to.

Arrays of some hundred numbers take numpy a quarter of the time. An operation that is not here makes its loss run by
autograd. Operations whose name ends in _ write in place, and views stay views, as in torch.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

Array = np.ndarray
aten = torch.ops.aten
f32 = np.float32
_total: Any = np.add.reduce
_largest: Any = np.maximum.reduce


def _along(index: Array, dim: int) -> tuple[Any, ...]:
    """Does what np.take_along_axis does with its index, in a tenth of the time."""
    grid, dim = _grid(index.shape), dim % index.ndim
    return (*grid[:dim], index, *grid[dim + 1 :])


@cache
def _grid(shape: tuple[int, ...]) -> tuple[Array, ...]:
    return tuple(np.ogrid[tuple(map(slice, shape))])


def _at(a: Array, dim: int, *index: Any) -> tuple[Any, ...]:
    """Returns the index that puts `index` in the place of dimension `dim` of `a`."""
    return (*(slice(None),) * dim, *index)


def _expand(a: Array, size: Sequence[int]) -> Array:
    own = (1,) * (len(size) - np.ndim(a)) + np.shape(a)
    return np.broadcast_to(a, [old if new == -1 else new for old, new in zip(own, size, strict=True)])


def _select_backward(gradient: Array, size: Sequence[int], dim: int, index: int) -> Array:
    whole = np.zeros(size, gradient.dtype)
    whole[_at(whole, dim % len(size), index)] = gradient
    return whole


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
    if index.shape[dim] != 1:
        raise NotImplementedError("several numbers may go to one place")
    a[_along(index, dim)] += source
    return a


def _log_softmax(a: Array, dim: int, half_to_float: bool = False) -> Array:
    shifted = a - _largest(a, dim, keepdims=True)
    shifted -= np.log(_total(np.exp(shifted), dim, keepdims=True))
    return shifted


def _smooth_l1(a: Array, b: Array, reduction: int = 1, beta: float = 1.0) -> Array:
    z = np.abs(_unreduced(a - b, reduction))
    return np.where(z < beta, f32(0.5 / beta) * z * z, z - f32(0.5 * beta))


def _unreduced(a: Array, reduction: int) -> Array:
    if reduction != 0:
        raise NotImplementedError("a loss that is reduced at once")
    return a


OPERATIONS: dict[Any, Callable[..., Any]] = {
    operator.getitem: operator.getitem,
    aten.add.Tensor: lambda a, b, alpha=1: a + b if alpha == 1 else a + alpha * b,
    aten.add_.Tensor: lambda a, b, alpha=1: np.add(a, b if alpha == 1 else alpha * b, out=a),
    aten.sub.Tensor: lambda a, b, alpha=1: a - b if alpha == 1 else a - alpha * b,
    aten.rsub.Scalar: lambda a, b, alpha=1: b - alpha * a,
    aten.div.Tensor: np.divide,
    aten.div.Scalar: np.divide,
    aten.detach.default: lambda a: a,
    aten.alias.default: lambda a: a,
    aten.clone.default: lambda a, **_: a.copy(),
    aten.squeeze.dim: lambda a, dim: a.squeeze(dim) if a.shape[dim] == 1 else a,
    aten.unsqueeze.default: lambda a, dim: a[_at(a, dim % (np.ndim(a) + 1), None)],
    aten.select.int: lambda a, dim, index: a[_at(a, dim % a.ndim, index)],
    aten.select_backward.default: _select_backward,
    aten.expand.default: _expand,
    aten.view.default: lambda a, size: a.reshape(size),
    aten.sum.default: lambda a: _total(a, None),
    aten.sum.dim_IntList: lambda a, dim, keepdim=False: _total(a, tuple(dim), keepdims=keepdim),
    aten.mean.dim: _mean,
    aten.std.correction: _std,
    aten.max.dim: lambda a, dim, keepdim=False: (
        _largest(a, dim, keepdims=keepdim), a.argmax(dim, keepdims=keepdim)
    ),
    aten.clamp.default: _clamp,
    aten.where.self: np.where,
    aten.masked_fill_.Scalar: _masked_fill_,
    aten.ones_like.default: lambda a, **_: np.ones_like(a),
    aten.zeros_like.default: lambda a, **_: np.zeros_like(a),
    aten.scalar_tensor.default: lambda value, **_: f32(value),
    aten.zeros.default: lambda size, **_: np.zeros(size, f32),
    aten.new_zeros.default: lambda a, size, **_: np.zeros(size, f32),
    aten.gather.default: lambda a, dim, index: a[_along(index, dim)],
    aten.scatter_add_.default: _scatter_add_,
    aten.scatter_add.default: lambda a, *rest: _scatter_add_(a.copy(), *rest),
    aten._log_softmax.default: _log_softmax,
    aten.mse_loss.default: lambda a, b, reduction=1: np.square(_unreduced(a - b, reduction)),
    aten.mse_loss_backward.default: lambda g, a, b, reduction: f32(2) * _unreduced(a - b, reduction) * g,
    aten.smooth_l1_loss.default: _smooth_l1,
    aten.smooth_l1_loss_backward.default: lambda g, a, b, reduction, beta: (
        np.clip(_unreduced(a - b, reduction) / f32(beta), -1, 1) * g
    ),
}  # fmt: skip
"""Operation of torch -> function of numpy with the same arguments."""
SHAPES_ONLY = (aten.ones_like.default, aten.zeros_like.default)
"""Operations whose result depends on the shape of their argument alone."""


def _elementwise(name: str, ufunc: Any) -> None:
    """Files a ufunc under all forms of an operation, and under those that write into their first argument."""
    for overload in getattr(aten, name).overloads():
        if not overload.endswith("out"):
            OPERATIONS[getattr(getattr(aten, name), overload)] = ufunc
    for overload in getattr(aten, f"{name}_").overloads() if hasattr(aten, f"{name}_") else ():
        OPERATIONS[getattr(getattr(aten, f"{name}_"), overload)] = lambda a, *b: ufunc(a, *b, out=a)


for _name, _ufunc in {
    "mul": np.multiply, "minimum": np.minimum, "maximum": np.maximum, "pow": np.power, "eq": np.equal, "lt": np.less,
    "gt": np.greater, "le": np.less_equal, "ge": np.greater_equal, "logical_and": np.logical_and, "exp": np.exp,
    "log": np.log, "neg": np.negative, "abs": np.abs, "square": np.square, "sqrt": np.sqrt, "tanh": np.tanh,
    "sign": np.sign, "log1p": np.log1p, "expm1": np.expm1, "logical_not": np.logical_not,
}.items():  # fmt: skip
    _elementwise(_name, _ufunc)
