"""What each parameter is for: which weights are held isometric, which are heads, norms or biases.

Optimizers see a list of tensors; only the module knows that the last layer is a head. Regularising a head
costs performance, so the roles decide the parameter groups and the groups decide what AdamO acts on. Optimizers,
penalties and diagnostics take the same layers, those of `is_matrix_layer`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import torch
from torch import nn

from isorl.plasticity.networks.isometric import IsometricConv2d, IsometricLinear, PatchConv2d
from isorl.plasticity.networks.spectral import SpectralConv2d, SpectralLinear
from isorl.plasticity.registry import unknown_name

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_LAYERS = (nn.Linear, *CONVOLUTIONS)
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)
_BY_ONE_MATRIX = {
    kind.forward
    for kind in (*_LAYERS, IsometricLinear, IsometricConv2d, PatchConv2d, SpectralLinear, SpectralConv2d)
}


class Role(StrEnum):
    """Says what a parameter is for."""

    hidden = "hidden"
    head = "head"
    norm = "norm"
    bias = "bias"
    other = "other"


def is_matrix_layer(module: nn.Module) -> bool:
    """Says whether a module multiplies its input, or each patch, by one matrix, `effective_weight(module)`.

    So do linear layers and convolutions, parametrized or not. Not so: grouped convolutions, transposed ones,
    subclasses with a forward pass of their own (noisy layers, adapters), and the projection inside
    nn.MultiheadAttention, which is never called.
    """
    return (
        not isinstance(module, torch.jit.ScriptModule)
        and type(module).forward in _BY_ONE_MATRIX
        and getattr(module, "groups", 1) == 1
        and not isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear)
    )


def uncompiled(path: str) -> str:
    """Returns the name that a part of a network has without the wrappers of torch.compile."""
    return ".".join(part for part in path.split(".") if part != "_orig_mod")


def hidden_matrix_layers(module: nn.Module, heads: Iterable[str] = ()) -> dict[str, nn.Module]:
    """Returns the layers of `is_matrix_layer` by path, without the heads; those that share a weight once.

    A weight that a head or an embedding shares is left out, as `roles` leaves it free.
    """
    heads = _known(heads, module)
    found: dict[str, nn.Module] = {}
    free = zip(module.parameters(), roles(module, heads).values(), strict=True)
    seen = {id(parameter) for parameter, role in free if role is not Role.hidden}
    for path, layer in module.named_modules():
        weight = id(layer._parameters.get("weight", layer))
        if is_matrix_layer(layer) and not _is_within(path, heads) and weight not in seen:
            found[path] = layer
            seen.add(weight)
    return found


def roles(module: nn.Module, heads: Iterable[str] = ()) -> dict[str, Role]:
    """Returns the role of every parameter by name, in the order of `named_parameters`, shared ones once.

    What a head shares is a head; what an embedding shares with a layer is `other`.

    Args:
        module: any module. Weights of the layers of `is_matrix_layer` are hidden, others (embeddings, recurrent
            cells, learned scales, what a parametrized weight is computed from) are `other`.
        heads: names of submodules, such as "action_net", whose weights are heads instead.
    """
    heads = _known(heads, module)
    owners = dict(module.named_modules(remove_duplicate=False))
    uses: dict[int, set[Role]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        uses.setdefault(id(parameter), set()).add(_role(owners[name.rpartition(".")[0]], name, heads))
    return {
        name: next(role for role in (Role.head, Role.other, *Role) if role in uses[id(parameter)])
        for name, parameter in module.named_parameters()
    }


def parameter_groups(
    module: nn.Module, heads: Iterable[str] = (), **group_options: Any
) -> list[dict[str, Any]]:
    """Returns parameter groups, one per role, each with `role` and `isometric`; every parameter exactly once.

    Isometric are the hidden weights, except of layers that see to their singular values themselves (projected,
    hard or spectral). Linear and convolution layers whose weight the isometry step cannot hold, because it is
    not a parameter or not the one matrix they multiply by, are left free, and a warning names them.

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
    _warn_about_free_weights(module, heads)
    return [group for group in groups.values() if group["params"]]


def _role(owner: nn.Module, name: str, heads: list[str]) -> Role:
    path, _, kind = name.rpartition(".")
    if isinstance(owner, NORMS):
        return Role.norm
    if isinstance(owner, _LAYERS) and kind == "bias":
        return Role.bias
    if not is_matrix_layer(owner) or kind != "weight":
        return Role.other
    return Role.head if _is_within(path, heads) else Role.hidden


def _known(heads: Iterable[str], module: nn.Module) -> list[str]:
    """The names of the heads, each of which is a submodule."""
    paths = [path for path in (uncompiled(path) for path, _ in module.named_modules()) if path]
    heads = [heads] if isinstance(heads, str) else list(heads)
    for head in heads:
        if head not in paths:
            raise unknown_name("head (a submodule)", head, paths)
    return heads


def _is_within(path: str, heads: list[str]) -> bool:
    path = uncompiled(path)
    return any(path == head or path.startswith(head + ".") for head in heads)


def _warn_about_free_weights(module: nn.Module, heads: Iterable[str]) -> None:
    heads = _known(heads, module)
    free = [
        f"{path} ({type(layer).__name__})"
        for path, layer in module.named_modules()
        if isinstance(layer, (*_LAYERS, torch.jit.ScriptModule))
        and any(True for _ in layer.parameters(recurse=False))
        and not _is_within(path, heads)
        and not (is_matrix_layer(layer) and "weight" in layer._parameters)
    ]
    if free:
        warnings.warn(
            f"the isometry step cannot hold the weights of {', '.join(free)}: they are computed from other "
            "parameters, or are not the one matrix that the layer multiplies by; they are left free",
            UserWarning,
            stacklevel=3,
        )
