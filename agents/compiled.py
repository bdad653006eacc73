"""The option `compile`: updates as machine code, by torch's compiler; the same formulas, other rounding.

A minibatch of small networks takes some eighty operations of a few microseconds, most of it calling them. For a pack
its loss and gradients are traced once, as one graph of plain operations without autograd, which the compiler fuses: one
graph for all stacks of one form and shape. A learner alone has its loss compiled, on a GPU into CUDA graphs.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

Compute = Callable[[Callable[..., Any], Sequence[Any], Sequence[Any]], Any]
"""(function, what it is told, its tensors) -> what the function gives back for both together.

The first of the tensors are those by which the function differentiates.
"""

_GRAPHS: dict[tuple[Any, ...], Callable[..., Any]] = {}


def computes(agent: Any) -> Compute:
    """How the pack of `agent` computes."""
    return compiled if agent.compile else plainly


def plainly(function: Callable[..., Any], told: Sequence[Any], tensors: Sequence[Any]) -> Any:
    """Operation by operation."""
    return function(*told, *tensors)


@torch.no_grad()
def compiled(function: Callable[..., Any], told: Sequence[Any], tensors: Sequence[Any]) -> Any:
    """By a graph; making it takes seconds, for every form and shape and whatever else the function is told."""
    flat = [tensor for part in tensors for tensor in ((part,) if isinstance(part, Tensor) else part)]
    key = (function, *(getattr(each, "form", each) for each in told), *(tensor.shape for tensor in flat))
    if key not in _GRAPHS:
        _GRAPHS[key] = torch.compile(_traced(partial(function, *told), tensors), dynamic=False)
    return _GRAPHS[key](*flat)


def _traced(function: Callable[..., Any], tensors: Sequence[Any]) -> Callable[..., Any]:
    from torch.fx.experimental.proxy_tensor import make_fx  # brings sympy, which takes half a second

    flat, structure = tree_flatten(tuple(tensors))

    def of_flat(*given: Tensor) -> Any:
        leaves, *others = tree_unflatten(given, structure)
        with torch.enable_grad():
            return function([leaf.detach().requires_grad_() for leaf in leaves], *others)

    return make_fx(of_flat)(*flat)


@cache
def compiled_loss(loss: Callable[..., Any], device: str) -> Callable[..., Any]:
    """`loss` of minibatches, on which autograd goes on; on "cuda" as CUDA graphs."""
    if device != "cuda":
        return torch.compile(loss)  # not dynamic=False, by which every value of a schedule would be compiled
    graphs = torch.compile(loss, mode="reduce-overhead")

    def replayed(*arguments: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return tree_map(torch.clone, graphs(*arguments))  # the next minibatch is computed in the same memory

    return replayed


def why_not() -> str | None:
    """What this machine lacks to compile; None where there is nothing."""
    compilers = (os.environ["CXX"],) if "CXX" in os.environ else ("g++", "clang++", "gcc", "clang")
    if not any(map(shutil.which, compilers)):
        return f"a C++ compiler ({', '.join(compilers)})"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return "Python's headers (of Debian's package python3-dev)"
    return None
