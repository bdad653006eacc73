"""The option `compile`: a learner's loss as machine code, by torch's compiler; on a GPU as CUDA graphs.

The formulas are the same, the rounding is not. It is for images on a GPU: small networks on the CPU learn faster as
agents/batched computes them, which compiled runs do not take part in.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_map


@cache
def compiled_loss(loss: Callable[..., Any], device: str) -> Callable[..., Any]:
    """Compiles `loss` of minibatches, on which autograd goes on; on "cuda" into CUDA graphs."""
    if device != "cuda":
        return torch.compile(loss)  # not dynamic=False, by which every value of a schedule would be compiled
    graphs = torch.compile(loss, mode="reduce-overhead")

    def replayed(*arguments: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return tree_map(torch.clone, graphs(*arguments))  # the next minibatch is computed in the same memory

    return replayed


def why_not() -> str | None:
    """Returns what this machine lacks to compile; None where there is nothing."""
    compilers = (os.environ["CXX"],) if "CXX" in os.environ else ("g++", "clang++", "gcc", "clang")
    if not any(map(shutil.which, compilers)):
        return f"a C++ compiler ({', '.join(compilers)})"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return "Python's headers (of Debian's package python3-dev)"
    return None
