"""Isometry as terms of a loss, coupled to the task gradient and so to Adam's moments; AdamO is decoupled.

Shapes: W (O, I) a weight, J = diag(d) W a layer's Jacobian at one of S samples, n = min(O, I), P projections.

    Gram      R(W) = ||W W^T - s I||_F^2                        weights only (arXiv 2606.09762, eq. 16)
    Jacobian  mean over layers, samples and i of (sigma_i(J) - 1)^2          on a batch, the abstract's form

The sum of (sigma - 1)^2 holds the nuclear norm, which no finite number of random projections estimates
without bias. (sigma^2 - 1)^2 / 4 agrees with it to leading order around one and does have an unbiased
estimate, which serves large layers: E ||(J J^T - I) v||^2 = ||J J^T - I||_F^2 for v ~ N(0, I).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from isorl.plasticity.diagnostics.probe import layer_slopes
from isorl.plasticity.diagnostics.record import Layer, record, rows
from isorl.plasticity.diagnostics.undisturbed import undisturbed
from isorl.plasticity.linalg import as_matrix, gram_gradient, gram_residual
from isorl.plasticity.networks.isometric import effective_weight
from isorl.plasticity.roles import hidden_matrix_layers


def gram_penalty(weight: Tensor, target: float = 1.0, by_rows: bool = False) -> Tensor:
    """Returns R(W) of one weight (O, ...), 0-d and once differentiable.

    Args:
        weight: with two dimensions or more.
        target: s.
        by_rows: W W^T even where W^T W is smaller, which then is no isometry's.
    """
    return _Gram.apply(as_matrix(weight), target, by_rows)[0]


def _gram_residual(W: Tensor, target: float | Tensor, by_rows: bool) -> Tensor:
    """(..., O, I) -> E (..., n, n); n = O by rows, else the smaller of the two."""
    if by_rows and W.shape[-2] > W.shape[-1]:
        E = W @ W.mT
        E.diagonal(dim1=-2, dim2=-1).sub_(target)
        return E
    return gram_residual(W, target)


class _Gram(torch.autograd.Function):
    """R(W) and E, the residual of the Gram matrix, of which the gradient 4 E W takes one more product.

    Autograd would take two, and form E without the saving of `smaller_gram`.
    """

    @staticmethod
    def forward(W: Tensor, target: float, by_rows: bool) -> tuple[Tensor, Tensor]:
        """Returns R, 0-d, and E (n, n) of W (O, I)."""
        E = _gram_residual(W, target, by_rows)
        return E.square().sum(), E

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        """Keeps W and E."""
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(inputs[0], output[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        """Returns the gradient by W."""
        W, E = ctx.saved_tensors
        return gram_gradient(W, E, gradient), None, None


def module_gram_penalty(module: nn.Module, heads: Iterable[str] = (), target: float = 1.0) -> Tensor:
    """Returns the sum of R(W) over the matrices that hidden layers of `module` multiply by, 0-d."""
    weights = [effective_weight(layer) for layer in hidden_matrix_layers(module, heads).values()]
    if not weights:
        raise ValueError("the module has no hidden weight to penalise; check `heads`")
    return torch.stack([gram_penalty(weight, target) for weight in weights]).sum()


def jacobian_penalty(
    network: nn.Module,
    batch: Tensor,
    projections: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Returns the mean over layers of their Jacobians' deviation from isometry on `batch`, 0-d.

    Each layer is judged at its own input, held fixed, so that it answers for its own weight and bias alone.
    Where the activation is off (ReLU) a row of J is zero whatever the weight: the penalty has a floor there
    and no gradient for the row. Convolutions count patch by patch. Layers are left out that are no plain matrix
    (grouped convolutions, recurrent cells) or have no activation module; `report` names them.

    Args:
        network: run in evaluation mode, its random streams and mode untouched.
        batch: (B, ...).
        projections: None takes the singular values of every sample's J, for small layers. P projections
            estimate the mean of (sigma^2 - 1)^2 / 4 instead, at the cost of P products with W per sample.
        generator: of the projections; None draws from a fresh one seeded with 0, the same at every call.
    """
    if projections is not None and projections < 1:
        raise ValueError(f"projections must be at least 1, or None for the exact penalty, got {projections}")
    with undisturbed(network, batch.device):
        layers = [layer for layer in record(network, batch).understood() if layer.activation is not None]
    if not layers:
        raise ValueError(
            "no layer of the network is followed by an activation module, so none has a Jacobian"
        )
    generator = generator or torch.Generator(batch.device).manual_seed(0)
    with undisturbed(network, batch.device, grad=True):
        deviations = []
        for W, d in map(_factors, layers):
            v = None
            if projections is not None:
                v = W.new_empty(len(d), projections, min(W.shape)).normal_(generator=generator)
            deviations.append(_deviation(W, d, v))
    return torch.stack(deviations).mean()


def _factors(layer: Layer) -> tuple[Tensor, Tensor]:
    """W (O, I) and the slopes d (S, O) of all samples, as functions of the layer's parameters."""
    W = as_matrix(effective_weight(layer.module))
    u = torch.cat([rows(call, layer.channels_first) for call in _pre_activations(layer)])
    return W, layer_slopes(layer, u, create_graph=True)


def _pre_activations(layer: Layer) -> list[Tensor]:
    """What enters the activation, as functions of the weight and bias; behind a norm layer, as constants."""
    if all(any(u is z for z in layer.outputs) for u in layer.before):
        return [layer.module(x.detach()) for x in layer.inputs]
    return [u.detach().requires_grad_() for u in layer.before]


def _deviation(W: Tensor, d: Tensor, v: Tensor | None) -> Tensor:
    """Mean over samples and singular values of J = diag(d) W, exact or estimated with v.

    Shapes: W (..., O, I), d (..., S, O), v (..., S, P, n); gives (...).
    """
    if v is None:
        J = d[..., None] * W[..., None, :, :]
        finite = (
            torch.isfinite(J).flatten(-3).all(-1)
        )  # of a run that diverges, svdvals would make an error of all
        sigma = torch.linalg.svdvals(torch.where(finite[..., None, None, None], J, 0.0))
        return torch.where(finite, (sigma - 1).square().mean((-2, -1)), torch.nan)
    n, rows_are_fewer = v.shape[-1], W.shape[-2] <= W.shape[-1]
    flat, d = v.flatten(-3, -2), d.repeat_interleave(v.shape[-2], -2)  # (..., S P, n), (..., S P, O)
    # J J^T v, or J^T J v
    Gv = (flat * d @ W @ W.mT) * d if rows_are_fewer else (flat @ W.mT * d.square()) @ W
    return (Gv - flat).square().sum(-1).mean(-1) / (4 * n)
