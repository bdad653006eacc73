"""Edits of parameters that keep the optimizer's knowledge consistent with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "utility")
"""Per-weight averages of what gradients say, in the weight's shape, as optimizers name them."""

REFERENCES = ("trac_reference",)
"""Weights from which an optimizer measures its path: that of an edited weight begins where the edit leaves it."""


def forget(optimizer: Optimizer, parameter: nn.Parameter) -> None:
    """Drops everything the optimizer remembers about `parameter`, its step count too."""
    optimizer.state.pop(parameter, None)


@torch.no_grad()
def edit(optimizer: Optimizer, parameter: Tensor, write: Callable[[Tensor, bool], object]) -> None:
    """Applies `write(tensor, is_weight)` in place to a parameter, to each of its moments and to its references.

    The step count stays: it belongs to the whole tensor, as in the reference implementation of ReDo. So Adam corrects
    no bias of the moments that begin anew, and edited weights take large steps at first: under a constant gradient
    (1 - 0.9^k) / sqrt(1 - 0.999^k) learning rates at the k-th update, 3.2 and at most 6.6, where old weights take 1.
    """
    write(parameter.data, True)
    state = optimizer.state.get(parameter, {})
    for name in MOMENTS:
        if name in state:
            write(state[name].view(parameter.shape), False)
    for name in REFERENCES:
        if name in state:
            write(state[name], True)


def add_parameters(optimizer: Optimizer, parameters: Iterable[nn.Parameter], like: Tensor) -> None:
    """Lets the optimizer train `parameters` too, in the group and so with the settings of `like`."""
    group = next(g for g in optimizer.param_groups if any(p is like for p in g["params"]))
    group["params"].extend(parameters)


def replace_module(root: nn.Module, old: nn.Module, new: nn.Module) -> int:
    """Puts `new` where `root` holds `old`, everywhere; gives back how many places there were."""
    places = [(parent, name) for parent in root.modules() for name, m in parent._modules.items() if m is old]
    for parent, name in places:
        parent._modules[name] = new
    return len(places)
