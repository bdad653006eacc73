"""Leaves a network as it was: its modes, buffers, attributes and hooks, and the random streams."""

from __future__ import annotations

import contextlib
import sys
from collections import OrderedDict
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.lazy import LazyModuleMixin


@contextlib.contextmanager
def undisturbed(network: nn.Module, device: torch.device, grad: bool = False) -> Iterator[None]:
    """Sets evaluation mode, no autocast, compilation or in-place activations inside; makes graphs only if `grad`.

    Outside everything is as it was, the global random streams too: a measurement never shifts a training run.
    """
    modules = list(network.modules())
    training = [module for module in modules if module.training]
    in_place = [module for module in modules if getattr(module, "inplace", False) is True]
    devices = [device] if device.type == "cuda" else []
    try:
        for module in training:  # not by eval(): a train() of its own may merge weights for good (LoRA)
            module.training = False
        for module in in_place:
            module.inplace = False  # type: ignore[assignment]
        with (
            torch.random.fork_rng(devices),
            torch.inference_mode(False),
            _state_kept(modules),
            torch.autocast(device.type, enabled=False),
            torch.set_grad_enabled(grad),
            sdpa_kernel(SDPBackend.MATH),  # the one that can be differentiated twice, on a CPU too
            # hooks must see what compiled modules compute; without dynamo, slow to import, there are none
            torch.compiler.set_stance("force_eager")
            if "torch._dynamo" in sys.modules
            else contextlib.nullcontext(),
        ):
            yield
    finally:
        for module in training:
            module.training = True
        for module in in_place:
            module.inplace = True  # type: ignore[assignment]


@contextlib.contextmanager
def _state_kept(modules: list[nn.Module]) -> Iterator[None]:
    """Gives modules back their buffers and attributes, whatever forward passes write; inside, no backward hook acts."""
    made = [m for m in modules if not (isinstance(m, LazyModuleMixin) and m.has_uninitialized_params())]
    held = [state for module in made for state in (module._buffers, vars(module))]
    before = [dict(state) for state in held]
    written = [x for state in before for x in state.values() if isinstance(x, Tensor)]
    values = [(x.detach().clone(), x.requires_grad) for x in written]
    for module in made:
        if module._backward_hooks or module._backward_pre_hooks:
            module._backward_hooks, module._backward_pre_hooks = OrderedDict(), OrderedDict()
    try:
        yield
    finally:
        for state, old in zip(held, before, strict=True):
            for name in state.keys() - old.keys():
                del state[name]
            state.update(old)
        with torch.no_grad():
            for x, (value, required) in zip(written, values, strict=True):
                if x.requires_grad and not required:
                    x.detach_()  # it was written to with a graph
                if not torch.equal(x, value):
                    x.copy_(value)
