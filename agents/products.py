"""Large linear layers by numpy's BLAS, on processors of which torch's uses half: AMD's with AVX-512.

torch multiplies float32 matrices with Intel's MKL, which takes AVX2 there; numpy's OpenBLAS takes what there is. The
Nature CNN's linear layer, a quarter of a minibatch of 256, is twice as fast by it. Elsewhere nothing changes.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LARGE = 1 << 26
"""Multiplications from which on the other library is worth the way there: 42 samples of the Nature CNN."""
TAKE_AVX512 = ("SkylakeX", "Cooperlake", "SapphireRapids")
"""OpenBLAS's names of its kernels."""


def through(network: nn.Module, x: Tensor) -> Tensor:
    """What `network` makes of x; layers with hooks, and all where torch is as fast, as ever."""
    if not _pays(x):
        return network(x)
    for layer in network.children() if isinstance(network, nn.Sequential) else (network,):
        if isinstance(layer, nn.Sequential):
            x = through(layer, x)
        elif _is_large(layer, x):
            x = _Product.apply(x, layer.weight, layer.bias)
        else:
            x = layer(x)
    return x


def _is_large(layer: nn.Module, x: Tensor) -> bool:
    plain = type(layer) is nn.Linear and layer.bias is not None and not layer._forward_hooks
    return plain and len(x) * layer.weight.numel() >= LARGE  # type: ignore[operator]


def _pays(x: Tensor) -> bool:
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return plain and not torch.compiler.is_compiling() and numpy_is_ahead()


@cache
def numpy_is_ahead() -> bool:
    """Whether this is such a processor, and numpy's BLAS knows."""
    info = Path("/proc/cpuinfo")
    said = info.read_text() if info.exists() else ""
    libraries = [each for each in _libraries().info() if "numpy" in each["filepath"]]
    takes_it = [each.get("architecture") in TAKE_AVX512 for each in libraries]
    return "AuthenticAMD" in said and "avx512f" in said and takes_it == [True]


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


class _Product(torch.autograd.Function):
    """y = x W^T + b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, b: Tensor) -> Tensor:
        """(B, I), (O, I), (O,) -> (B, O)."""
        ctx.save_for_backward(x, W)
        return _times(x, W.mT).add_(b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """(B, O) -> the gradients of x (where it is wanted), W and b."""
        x, W = ctx.saved_tensors
        of_x = _times(gradient, W) if ctx.needs_input_grad[0] else None
        return of_x, _times(gradient.mT, x), gradient.sum(0)


def _times(left: Tensor, right: Tensor) -> Tensor:
    """The product of two matrices, in as many threads as torch's."""
    with _libraries().limit(limits=torch.get_num_threads(), user_api="blas"):
        return torch.from_numpy(np.matmul(left.detach().numpy(), right.detach().numpy()))
