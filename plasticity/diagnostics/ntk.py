"""The empirical neural tangent kernel, exact and layer by layer (Jacot et al. 2018, arXiv 1806.07572).

    K[(n, c), (m, d)] = < d f_c(x_n) / d theta , d f_d(x_m) / d theta >      over outputs f, not over losses

Shapes: N samples, C outputs, T positions, I inputs and O outputs of a layer.

For a layer Z = A W^T + b the gradient of f_c(x_n) is sum_t B[n, c, t] (x) A[n, t], where B are the backward
signals d f_c / d Z. So C backward passes serve all layers, and a linear layer needs no gradient at all: its
part of K is (A A^T + 1)[n, m] times (B B^T)[(n, c), (m, d)].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isorl.plasticity.diagnostics.tape import Layer, Tape, is_plain, patches, record, undisturbed
from isorl.plasticity.linalg import at_least_single, gram


def empirical_ntk(network: nn.Module, x: Tensor) -> Tensor:
    """K (N C, N C) of `network` (B, ...) -> (B, C) at the N samples `x`, rows ordered by sample, then output.

    Over the weights and biases of linear and convolution layers and the affine parameters of layer and group
    norms. Of a hard isometric layer the orthogonal weight counts as the parameter.
    """
    with undisturbed(network, x.device, grad=True):
        tape = record(network, x.detach().clone().requires_grad_())
        return kernel(tape, backward_signals(tape))


def backward_signals(tape: Tape) -> dict[int, Tensor]:
    """The signals d f_c / d Z of every call of every layer and norm, (C, N, ...), by the id of Z."""
    f = tape.output.flatten(1)  # (N, C)
    Z = [z for part in (*tape.layers, *tape.norms) for z in part.outputs]
    passes = [
        torch.autograd.grad(f[:, c].sum(), Z, retain_graph=True, allow_unused=True, materialize_grads=True)
        for c in range(f.shape[1])
    ]
    return {id(z): torch.stack(signals) for z, signals in zip(Z, zip(*passes, strict=True), strict=True)}


@torch.no_grad()
def kernel(tape: Tape, signals: dict[int, Tensor]) -> Tensor:
    """K (N C, N C) as the sum of the layers' parts."""
    f = tape.output.flatten(1)
    # Zero, but NaN where the output is: masks of ReLU would hide a NaN from the derivatives.
    K = (0 * f.sum()).expand(f.numel(), f.numel()).to(torch.promote_types(f.dtype, torch.float32)).clone()
    for layer in tape.layers:
        if is_plain(layer.module):
            K += _layer_part(layer, signals)
    for norm in tape.norms:
        K += _norm_part(norm, signals)
    return K


def _layer_part(layer: Layer, signals: dict[int, Tensor]) -> Tensor:
    A = _joined([patches(layer.module, x) for x in layer.inputs], 1)  # (N, T, I)
    B = _joined([_positions(layer, signals[id(z)]) for z in layer.outputs], 2)  # (N, C, T, O)
    A, B = at_least_single(A), at_least_single(B)
    N, C, T, out = B.shape
    bias = layer.module.bias is not None
    if T == 1:
        AA, BB = gram(A[:, 0]).add_(float(bias)), gram(B.reshape(N * C, out))
        return (AA[:, None, :, None] * BB.view(N, C, N, C)).view(N * C, N * C)
    G = B.mT.reshape(N, C * out, T) @ A  # gradients by the weight, (N, C O, I)
    K = gram(G.reshape(N * C, -1))
    return K + gram(B.sum(2).reshape(N * C, out)) if bias else K


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)  # cat copies even a single one


def _norm_part(norm: Layer, signals: dict[int, Tensor]) -> Tensor | float:
    """Of y = w x_hat + b: the gradients are sum_t B x_hat and sum_t B."""
    module = norm.module
    if getattr(module, "weight", None) is None:
        return 0.0
    dw: Tensor | float = 0.0
    db: Tensor | float = 0.0
    for x, y in zip(norm.inputs, norm.outputs, strict=True):
        B = signals[id(y)]  # (C, N, ...)
        x_hat = _normalised(module, x)
        dw, db = dw + _per_feature(module, B * x_hat), db + _per_feature(module, B)
    assert isinstance(dw, Tensor)
    assert isinstance(db, Tensor)
    has_bias = getattr(module, "bias", None) is not None
    return gram(dw) + gram(db) if has_bias else gram(dw)


def _normalised(module: nn.Module, x: Tensor) -> Tensor:
    if isinstance(module, nn.LayerNorm):
        return F.layer_norm(x, module.normalized_shape, eps=module.eps)
    if isinstance(module, nn.RMSNorm):
        return F.rms_norm(x, module.normalized_shape, eps=module.eps)
    if isinstance(module, nn.GroupNorm):
        return F.group_norm(x, module.num_groups, eps=module.eps)
    return F.batch_norm(x, module.running_mean, module.running_var, eps=module.eps)  # type: ignore[arg-type]


def _per_feature(module: nn.Module, B: Tensor) -> Tensor:
    """(C, N, ...) summed over all but the affine parameters' dimensions: (N C, features)."""
    B = B.transpose(0, 1)  # (N, C, ...)
    N, C = B.shape[:2]
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        features = math.prod(module.normalized_shape)
        return B.reshape(N * C, -1, features).sum(1)
    return B.reshape(N * C, B.shape[2], -1).sum(2)


def _positions(layer: Layer, B: Tensor) -> Tensor:
    """(C, N, O, H, W) or (C, N, ..., O) as (N, C, T, O)."""
    if layer.channels_first:
        B = B.flatten(3).mT
    return B.reshape(B.shape[0], B.shape[1], -1, B.shape[-1]).transpose(0, 1)
