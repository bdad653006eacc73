"""torch's elementary operations in numpy: those that the losses of small networks and their gradients come to.

Arrays of some hundred numbers take numpy a quarter of the time. An operation that is not here makes its loss run by
autograd. In-place operations write in place and views stay views, as in torch.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

Array = np.ndarray
_total: Any = np.add.reduce
_largest: Any = np.maximum.reduce
aten = torch.ops.aten
OPERATIONS: dict[Any, Callable[..., Any]] = {operator.getitem: operator.getitem}
"""Operation of torch -> function of numpy with the same arguments."""
SHAPES_ONLY = (aten.ones_like.default, aten.zeros_like.default)
"""Operations whose result depends on the shape of their argument alone."""


def register(*operations: Any) -> Callable[[Any], Any]:
    """Files a function under operations of torch."""

    def add(function: Any) -> Any:
        OPERATIONS.update(dict.fromkeys(operations, function))
        return function

    return add


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
OPERATIONS |= {aten.div.Tensor: np.divide, aten.div.Scalar: np.divide}


@register(aten.add.Tensor)
def _add(a: Any, b: Any, alpha: float = 1) -> Any:
    return a + b if alpha == 1 else a + alpha * b


@register(aten.add_.Tensor)
def _add_(a: Array, b: Any, alpha: float = 1) -> Array:
    return np.add(a, b if alpha == 1 else alpha * b, out=a)


@register(aten.sub.Tensor)
def _sub(a: Any, b: Any, alpha: float = 1) -> Any:
    return a - b if alpha == 1 else a - alpha * b


@register(aten.rsub.Scalar)
def _rsub(a: Any, b: Any, alpha: float = 1) -> Any:
    return b - alpha * a


@register(aten.detach.default, aten.alias.default)
def _same(a: Array) -> Array:
    return a


@register(aten.clone.default)
def _clone(a: Array, **_: Any) -> Array:
    return a.copy()


@register(aten._to_copy.default)
def _to_copy(a: Array, dtype: torch.dtype | None = None, **_: Any) -> Array:
    return a.copy() if dtype is None else a.astype(torch.empty(0, dtype=dtype).numpy().dtype)


@register(aten.squeeze.dim)
def _squeeze(a: Array, dim: int) -> Array:
    return a.squeeze(dim) if a.shape[dim] == 1 else a


@register(aten.unsqueeze.default)
def _unsqueeze(a: Array, dim: int) -> Array:
    return a[(*(slice(None),) * (dim % (np.ndim(a) + 1)), None)]


@register(aten.select.int)
def _select(a: Array, dim: int, index: int) -> Array:
    return a[(slice(None),) * (dim % a.ndim) + (index,)]


@register(aten.select_backward.default)
def _select_backward(gradient: Array, size: Sequence[int], dim: int, index: int) -> Array:
    a = np.zeros(size, gradient.dtype)
    _select(a, dim, index)[...] = gradient
    return a


@register(aten.expand.default)
def _expand(a: Array, size: Sequence[int]) -> Array:
    own = (1,) * (len(size) - np.ndim(a)) + np.shape(a)
    return np.broadcast_to(a, [old if new == -1 else new for old, new in zip(own, size, strict=True)])


@register(aten.view.default, aten._unsafe_view.default, aten.reshape.default)
def _view(a: Array, size: Sequence[int]) -> Array:
    return a.reshape(size)


@register(aten.sum.default)
def _sum(a: Array) -> Any:
    return np.add.reduce(a, None)


@register(aten.sum.dim_IntList)
def _sum_along(a: Array, dim: Sequence[int], keepdim: bool = False) -> Array:
    return _total(a, tuple(dim), keepdims=keepdim)


@register(aten.mean.dim)
def _mean(a: Array, dim: Sequence[int], keepdim: bool = False) -> Array:
    total = _total(a, tuple(dim), keepdims=keepdim)
    return total / np.float32(a.size // max(np.size(total), 1))


@register(aten.std.correction)
def _std(a: Array, dim: Sequence[int], correction: float = 1, keepdim: bool = False) -> Array:
    away = a - _mean(a, dim, keepdim=True)  # numpy's own takes three times as long
    total = _total(away * away, tuple(dim), keepdims=keepdim)
    return np.sqrt(total / np.float32(a.size // max(total.size, 1) - correction))


@register(aten.max.dim)
def _max(a: Array, dim: int, keepdim: bool = False) -> tuple[Array, Array]:
    return _largest(a, dim, keepdims=keepdim), a.argmax(dim, keepdims=keepdim)


@register(aten.clamp.default)
def _clamp(a: Array, low: float | None = None, high: float | None = None) -> Array:
    a = a if low is None else np.maximum(a, np.float32(low))
    return a if high is None else np.minimum(a, np.float32(high))


@register(aten.where.self)
def _where(condition: Array, a: Any, b: Any) -> Array:
    return np.where(condition, a, b)


@register(aten.masked_fill_.Scalar)
def _masked_fill_(a: Array, mask: Array, value: float) -> Array:
    np.copyto(a, value, where=mask)
    return a


@register(aten.ones_like.default)
def _ones_like(a: Any, **_: Any) -> Array:
    return np.ones_like(a)


@register(aten.zeros_like.default)
def _zeros_like(a: Any, **_: Any) -> Array:
    return np.zeros_like(a)


@register(aten.scalar_tensor.default)
def _scalar(value: float, dtype: torch.dtype = torch.float32, **_: Any) -> Any:
    return np.float32(value) if dtype == torch.float32 else np.asarray(value)


@register(aten.zeros.default, aten.new_zeros.default)
def _zeros(*arguments: Any, **_: Any) -> Array:
    return np.zeros(arguments[-1], np.float32)


@register(aten.gather.default)
def _gather(a: Array, dim: int, index: Array) -> Array:
    return a[_along(index, dim)]


@register(aten.scatter_add_.default)
def _scatter_add_(a: Array, dim: int, index: Array, source: Array) -> Array:
    if index.shape[dim] != 1:  # several numbers may go to one place
        raise NotImplementedError("scatter_add of more than one number")
    a[_along(index, dim)] += source
    return a


@register(aten.scatter_add.default)
def _scatter_add(a: Array, dim: int, index: Array, source: Array) -> Array:
    return _scatter_add_(a.copy(), dim, index, source)


def _along(index: Array, dim: int) -> tuple[Any, ...]:
    """Does what np.take_along_axis does with its index, in a tenth of the time."""
    grid = _grid(index.shape)
    dim %= index.ndim
    return (*grid[:dim], index, *grid[dim + 1 :])


@cache
def _grid(shape: tuple[int, ...]) -> tuple[Array, ...]:
    return tuple(np.ogrid[tuple(map(slice, shape))])


@register(aten._log_softmax.default)
def _log_softmax(a: Array, dim: int, half_to_float: bool = False) -> Array:
    shifted = a - np.maximum.reduce(a, dim, keepdims=True)
    shifted -= np.log(np.add.reduce(np.exp(shifted), dim, keepdims=True))
    return shifted


def _unreduced(reduction: int) -> None:
    if reduction != 0:
        raise NotImplementedError("a loss that is reduced at once")


@register(aten.mse_loss.default)
def _mse_loss(a: Array, b: Array, reduction: int = 1) -> Array:
    _unreduced(reduction)
    difference = a - b
    return difference * difference


@register(aten.mse_loss_backward.default)
def _mse_loss_backward(gradient: Array, a: Array, b: Array, reduction: int) -> Array:
    _unreduced(reduction)
    return np.float32(2) * (a - b) * gradient


@register(aten.smooth_l1_loss.default)
def _smooth_l1_loss(a: Array, b: Array, reduction: int = 1, beta: float = 1.0) -> Array:
    _unreduced(reduction)
    z = np.abs(a - b)
    return np.where(z < beta, np.float32(0.5 / beta) * z * z, z - np.float32(0.5 * beta))


@register(aten.smooth_l1_loss_backward.default)
def _smooth_l1_loss_backward(gradient: Array, a: Array, b: Array, reduction: int, beta: float) -> Array:
    _unreduced(reduction)
    return np.clip((a - b) / np.float32(beta), -1, 1) * gradient
