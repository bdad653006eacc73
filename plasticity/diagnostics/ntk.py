"""The empirical neural tangent kernel, exact and layer by layer (Jacot et al. 2018, arXiv 1806.07572).

    K[(n, c), (m, d)] = < d f_c(x_n) / d theta , d f_d(x_m) / d theta >      over outputs f, not over losses

Shapes: N samples, C outputs, T positions, I inputs and O outputs of a layer.

For a layer Z = A W^T + b the gradient of f_c(x_n) is sum_t B[n, c, t] (x) A[n, t], where B are the backward
signals d f_c / d Z. So C backward passes serve all layers, and a linear layer needs no gradient at all: its
part of K is (A A^T + 1)[n, m] times (B B^T)[(n, c), (m, d)]. What has no such rule goes by the definition, and
one backward pass over all parameters checks the sum.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isorl.plasticity.diagnostics.record import (
    ActivationRecord,
    Layer,
    NotMeasurableError,
    record,
)
from isorl.plasticity.diagnostics.undisturbed import undisturbed
from isorl.plasticity.linalg import at_least_single, gram
from isorl.plasticity.networks.isometric import PatchConv2d, effective_weight
from isorl.plasticity.roles import is_matrix_layer

_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
ELEMENTS_AT_ONCE = 2**27
"""Entries of the Jacobians (N C, parameters) that are held at a time, half a gigabyte in single precision."""


def empirical_ntk(network: nn.Module, x: Tensor) -> Tensor:
    """Returns K (N C, N C) of `network` at the N samples `x` (N, ...), rows ordered by sample, then output.

    Over the parameters that learn, or all where the whole network is frozen. Those of plain linear, convolution and
    norm layers go layer by layer; all others, such as recurrent cells, attention, parametrized and shared weights, by
    one backward pass per sample and output.

    Raises:
        NotMeasurableError: the outputs of a sample depend on the others.
    """
    with undisturbed(network, x.device, grad=True), differentiable(network):
        recorded = record(network, leaf(x))
        return kernel(network, recorded, backward_signals(recorded))


def leaf(x: Tensor) -> Tensor:
    """Copies a batch; from the copy a graph starts, where its numbers are not integers."""
    return x.detach().clone().requires_grad_(x.is_floating_point())


@contextlib.contextmanager
def differentiable(network: nn.Module) -> Iterator[None]:
    """Lets the parameters that learn take part in the graphs that are made inside; all, where the whole is frozen.

    Hooks on their gradients, which serve an optimizer, do nothing inside.
    """
    parameters = [p for p in network.parameters() if p.is_floating_point()]
    frozen = [] if any(p.requires_grad for p in parameters) else parameters
    hooked = [(p._backward_hooks, dict(p._backward_hooks)) for p in parameters if p._backward_hooks]
    try:
        for hooks, _ in hooked:
            hooks.clear()  # autograd holds on to this dictionary
        for parameter in frozen:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for hooks, kept in hooked:
            hooks.update(kept)


def backward_signals(recorded: ActivationRecord) -> dict[int, Tensor]:
    """Returns d f_c / d Z of every call of every layer and norm, (C, N, ...), by the id of Z."""
    f = outputs(recorded)
    Z = [z for part in (*recorded.layers, *recorded.norms) for z in part.outputs if z.requires_grad]
    if not Z:
        return {}
    passes = [
        torch.autograd.grad(f[:, c].sum(), Z, retain_graph=True, allow_unused=True, materialize_grads=True)
        for c in range(f.shape[1])
    ]
    return {id(z): torch.stack(signals) for z, signals in zip(Z, zip(*passes, strict=True), strict=True)}


def outputs(recorded: ActivationRecord) -> Tensor:
    """Returns the outputs as (N, C); one for each sample where they are (N,)."""
    return recorded.output.reshape(len(recorded.output), -1)


def kernel(network: nn.Module, recorded: ActivationRecord, signals: dict[int, Tensor]) -> Tensor:
    """Returns K (N C, N C) over the parameters of `network` that require a gradient, from its record at N samples.

    Raises:
        NotMeasurableError: see `empirical_ntk`.
    """
    if any(p.is_complex() for p in network.parameters()):
        raise NotMeasurableError("the network has complex parameters")
    parameters = {id(p): p for p in network.parameters() if p.requires_grad and p.numel()}
    with torch.no_grad():
        K, covered = _layerwise(network, recorded, signals)
    if not parameters or not torch.isfinite(K).all():
        return K
    check_samples_apart(network, recorded)
    rest = [p for key, p in parameters.items() if key not in covered]
    if rest:
        if recorded.input.requires_grad:  # torch refuses it where a reentrant checkpoint hides parameters
            torch.autograd.grad(outputs(recorded).sum(), recorded.input, retain_graph=True, allow_unused=True)
        K = K + _by_autograd(network, recorded, rest)
    if not _holds(K, recorded, list(parameters.values())):  # a weight was used outside of its module
        K = _by_autograd(network, recorded, list(parameters.values()))
        if not _holds(K, recorded, list(parameters.values())):
            raise NotMeasurableError("samples have other outputs alone than in the batch")
    return K


@torch.no_grad()
def check_samples_apart(network: nn.Module, recorded: ActivationRecord) -> None:
    """Refuses a network whose outputs for a sample depend on the others of the batch: f is of one sample.

    Raises:
        NotMeasurableError: it does, or does not take a sample alone.
    """
    together = outputs(recorded)[0]
    try:
        alone = network(recorded.input[:1]).reshape(-1)
    except (RuntimeError, ValueError, IndexError) as error:
        raise NotMeasurableError(f"the network does not take one sample alone: {error}") from error
    tolerance = math.sqrt(torch.finfo(together.dtype).eps) * together.abs().max()
    if (alone - together).abs().max() > 10 * tolerance:
        raise NotMeasurableError("the outputs of a sample depend on other samples of the batch")


def _layerwise(
    network: nn.Module, recorded: ActivationRecord, signals: dict[int, Tensor]
) -> tuple[Tensor, set[int]]:
    """The sum of the parts of the layers that have a rule, and the ids of their parameters."""
    f = outputs(recorded)
    # Zero, but NaN where the output is: masks of ReLU would hide a NaN from the derivatives.
    K = (0 * f.sum()).expand(f.numel(), f.numel()).to(torch.promote_types(f.dtype, torch.float32)).clone()
    holders = Counter(id(p) for m in network.modules() for p in m._parameters.values() if p is not None)
    covered: set[int] = set()
    for parts, part_of, has_rule in (
        (recorded.layers, _layer_part, _is_plain_layer),
        (recorded.norms, _norm_part, _is_plain_norm),
    ):
        for part in parts:
            own = [id(p) for p in part.module.parameters()]
            learns = bool(own) and all(p.requires_grad for p in part.module.parameters())
            by_sample = all(x.ndim > 1 and len(x) == len(f) for x in part.inputs)
            followed = all(id(z) in signals for z in part.outputs)  # not by a graph inside of no_grad
            plain = by_sample and followed and has_rule(part.module)
            if learns and plain and all(holders[key] == 1 for key in own):
                K += part_of(part, signals)
                covered |= set(own)
    return K, covered


def _by_autograd(network: nn.Module, recorded: ActivationRecord, parameters: list[nn.Parameter]) -> Tensor:
    """K over `parameters` by the definition, each sample alone; few rows at a time where they are many."""
    x, (N, C) = recorded.input, outputs(recorded).shape
    R, size = N * C, sum(p.numel() for p in parameters)
    step = min(R, max(1, ELEMENTS_AT_ONCE // (2 * size)))
    like = recorded.output.detach()
    K = like.new_zeros(R, R, dtype=torch.promote_types(like.dtype, torch.float32))
    for i in range(0, R, step):
        J = _jacobian(network, x, parameters, range(i, min(i + step, R)), C)
        K[i : i + step, i : i + step] = gram(J)
        for j in range(i + step, R, step):
            block = J @ _jacobian(network, x, parameters, range(j, min(j + step, R)), C).mT
            K[i : i + step, j : j + step], K[j : j + step, i : i + step] = block, block.mT
    return K


def _jacobian(network: nn.Module, x: Tensor, parameters: list[nn.Parameter], wanted: range, C: int) -> Tensor:
    """The rows d f_c(x_n) / d theta, r = n C + c, of the `wanted` r: (len(wanted), parameters)."""
    found: list[Tensor] = []
    for r in wanted:
        n, c = divmod(r, C)
        if c == 0 or not found:
            f = network(x[n : n + 1]).flatten()
        gradients = torch.autograd.grad(
            f[c], parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        found.append(torch.cat([at_least_single(g).flatten() for g in gradients]))
    return torch.stack(found)


def _holds(K: Tensor, recorded: ActivationRecord, parameters: list[nn.Parameter]) -> bool:
    """Whether v^T K v = ||d (v^T f) / d theta||^2, as it must be, for a random v: one pass that knows no rule.

    Its entries are of either sign, and of sizes from 0.5 to 1.5: signs alone are blind to an exchange of samples.
    """
    f = outputs(recorded)
    v = 2 * torch.rand(f.shape, generator=torch.Generator().manual_seed(0)).to(f) - 1
    v = v + v.sign() / 2
    gradients = torch.autograd.grad((v * f).sum(), parameters, retain_graph=True, allow_unused=True)
    energy = sum(float(at_least_single(g).square().sum()) for g in gradients if g is not None)
    v = v.flatten().to(K)
    tolerance = 3 * math.sqrt(torch.finfo(f.dtype).eps) * float(K.trace())
    return abs(float(v @ K @ v) - energy) <= tolerance


def _is_plain_layer(module: nn.Module) -> bool:
    """Whether a layer is a plain matrix over its input or over patches padded with zeros."""
    if not (is_matrix_layer(module) and isinstance(module, nn.Linear | nn.Conv2d)):
        return False
    if isinstance(module, nn.Conv2d) and (module.padding_mode != "zeros" or isinstance(module.padding, str)):
        return False
    names = {name for name, _ in module.named_parameters()}
    return names <= {"weight", "bias"} and effective_weight(module) is module._parameters.get("weight")


def _is_plain_norm(module: nn.Module) -> bool:
    names = {name for name, _ in module.named_parameters()}
    has_statistics = getattr(module, "running_mean", True) is not None
    return type(module) in _NORMS and names <= {"weight", "bias"} and has_statistics


def _patches(module: nn.Module, x: Tensor) -> Tensor:
    """A layer's input as (B, T, I): the vectors its weight matrix multiplies, one per output position."""
    if not isinstance(module, nn.Conv2d):
        return x.reshape(x.shape[0], -1, x.shape[-1])
    if isinstance(module, PatchConv2d):
        x = module.pad(x)
    padding: tuple[int, ...] = module.padding  # type: ignore[assignment]  # see _is_plain_layer
    return F.unfold(x, module.kernel_size, module.dilation, padding, module.stride).transpose(1, 2)


def _layer_part(layer: Layer, signals: dict[int, Tensor]) -> Tensor:
    A = _joined([_patches(layer.module, x) for x in layer.inputs], 1)  # (N, T, I)
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
