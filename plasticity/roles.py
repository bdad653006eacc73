"""What each parameter is for: which weights are held isometric, which are heads, norms or biases.

Optimizers see a list of tensors; only the module knows that the last layer is a head. Regularising a head
costs performance, so the roles decide the parameter groups and the groups decide what AdamO acts on.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from torch import nn

from isorl.plasticity.registry import unknown_name

_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._BatchNorm)


class Role(StrEnum):
    """What a parameter is for."""

    hidden = "hidden"
    head = "head"
    norm = "norm"
    bias = "bias"
    other = "other"


def roles(module: nn.Module, heads: Iterable[str] = ()) -> dict[str, Role]:
    """The role of every parameter by name, in the order of `named_parameters`, shared ones once.

    Args:
        module: any module. Weights of linear and convolution layers are hidden, others (embeddings,
            recurrent cells, learned scales) are `other`.
        heads: names of submodules, such as "action_net", whose weights are heads instead.
    """
    paths = [path for path, _ in module.named_modules() if path]
    heads = [heads] if isinstance(heads, str) else list(heads)
    for head in heads:
        if head not in paths:
            raise unknown_name("head (a submodule)", head, paths)
    owners = dict(module.named_modules(remove_duplicate=False))
    return {
        name: _role(owners[name.rpartition(".")[0]], name, heads) for name, _ in module.named_parameters()
    }


def parameter_groups(
    module: nn.Module, heads: Iterable[str] = (), **group_options: Any
) -> list[dict[str, Any]]:
    """Parameter groups, one per role, each with `role` and `isometric`; every parameter exactly once.

    Isometric are the hidden weights, except of layers that keep themselves orthogonal (projected or hard).

    Args:
        module: any module.
        heads: names of submodules whose weights are heads.
        **group_options: keys to add to every group, such as lr.
    """
    owners = dict(module.named_modules(remove_duplicate=False))
    parameters = dict(module.named_parameters())
    groups: dict[tuple[Role, bool], dict[str, Any]] = {
        (role, isometric): {"params": [], "role": role.value, "isometric": isometric, **group_options}
        for role in Role
        for isometric in ((True, False) if role is Role.hidden else (False,))
    }
    for name, role in roles(module, heads).items():
        owner = owners[name.rpartition(".")[0]]
        isometric = role is Role.hidden and getattr(owner, "isometry", "soft") == "soft"
        groups[role, isometric]["params"].append(parameters[name])
    return [group for group in groups.values() if group["params"]]


def _role(owner: nn.Module, name: str, heads: list[str]) -> Role:
    path, _, kind = name.rpartition(".")
    if isinstance(owner, _NORMS):
        return Role.norm
    if not isinstance(owner, _WEIGHTED):
        return Role.other
    if kind == "bias":
        return Role.bias
    is_head = any(path == head or path.startswith(head + ".") for head in heads)
    return Role.head if is_head else Role.hidden
