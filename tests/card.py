"""A device that is not there: tensors that say they live on "card" and are computed on the processor.

What mixes them with the processor's fails as it would on a GPU, so that a forgotten `.to(device)` is found on any
machine. The numbers are the processor's, to the bit. It stands on torch's device for backends written in Python; a
process that has it has it until its end, and can no longer be forked once it has computed a gradient.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_iter, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend as set_up

ACROSS_DEVICES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
INDEXING = {
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put_.default,
}  # indices may come from the processor
OF_SHAPE_ALONE = {"squeeze_", "unsqueeze_", "t_", "transpose_"}


class OnCard(Tensor):
    """A tensor on the card; `held` is what it holds, on the processor."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnCard":
        """Puts a tensor of the processor onto the card; both share memory."""
        self = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device("card", 0),
        )
        self.held = held
        return self

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(function, args, kwargs or {})

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self) -> str:
        return f"OnCard({self.held!r})"


def computed(function: Any, args: Any, kwargs: Any) -> Any:
    """Calls one of torch's operations on what the card's tensors hold.

    Raises:
        RuntimeError: it was given tensors of both devices.
    """
    given = [value for value in tree_iter((args, kwargs)) if isinstance(value, Tensor)]
    cards = {id(value.held): value for value in given if isinstance(value, OnCard)}
    elsewhere = [value for value in given if not isinstance(value, OnCard) and value.dim()]
    if (
        elsewhere
        and function not in ACROSS_DEVICES
        and not (function in INDEXING and given[0] is not elsewhere[0])
    ):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but {function} got card:0 and cpu"
        )
    if function._schema.name.partition("::")[2] in OF_SHAPE_ALONE:
        function(args[0].held, *args[1:], **kwargs)
        with torch._C._DisableTorchDispatch():
            return function(*args, **kwargs)
    onto = kwargs.get("device")
    here = isinstance(given[0], OnCard) if function in ACROSS_DEVICES else bool(cards)
    here = here if onto is None else torch.device(onto).type == "card"
    if onto is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    args, kwargs = tree_map_only(OnCard, lambda value: value.held, (args, kwargs))
    out = function(*args, **kwargs)
    if not here:
        return out
    return tree_map_only(Tensor, lambda value: cards[id(value)] if id(value) in cards else OnCard(value), out)


def _empty(size: Any, dtype: Any = None, *_: Any, memory_format: Any = None, **__: Any) -> Tensor:
    return OnCard(torch.empty(size, dtype=dtype, memory_format=memory_format or torch.contiguous_format))


def _empty_strided(size: Any, stride: Any, dtype: Any = None, *_: Any, **__: Any) -> Tensor:
    return OnCard(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Tensor, target: Tensor, _: bool = False) -> Tensor:
    held = [value.held if isinstance(value, OnCard) else value for value in (target, source)]
    held[0].copy_(held[1])
    return target


class _Backend:
    """What torch asks of a device's module."""

    device_count = staticmethod(lambda: 1)
    is_available = is_initialized = staticmethod(lambda: True)
    _is_in_bad_fork = staticmethod(lambda: False)
    _lazy_init = staticmethod(lambda: None)
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16])
    manual_seed_all = staticmethod(lambda seed: None)


set_up("card", _Backend)
_kernels = torch.library.Library("aten", "IMPL")
_kernels.impl("empty.memory_format", _empty, "PrivateUse1")
_kernels.impl("empty_strided", _empty_strided, "PrivateUse1")
_kernels.impl("_copy_from", _copy_from, "PrivateUse1")
