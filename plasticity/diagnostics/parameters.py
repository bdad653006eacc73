"""Parameters as one vector theta: its norm, its distance from an earlier value, and its gradient."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isorl.plasticity.diagnostics.metric import Values, metric
from isorl.plasticity.diagnostics.probe import Probe


@metric(
    "weight_norm",
    formula="||theta||_2 over all parameters",
    range="[0, inf)",
    healthy="stable",
    cost="free",
    paper="Lyle et al. 2023, arXiv 2303.01486",
)
def weight_norm(probe: Probe) -> Values:
    """The scale of the parameters, per layer of its weight and bias."""
    layers = {layer.name: _norm(layer.module.parameters()) for layer in probe.tape.layers}
    return {"": _norm(probe.network.parameters()), **layers}


@metric(
    "weight_distance",
    formula="||theta - theta_0||_2, theta_0 the reference",
    range="[0, inf)",
    healthy="low",
    cost="free",
    paper="Kumar et al. 2023, arXiv 2308.11958",
)
def weight_distance(probe: Probe) -> Values:
    """How far training has carried the parameters; absent without a reference."""
    if probe.reference is None:
        return {}
    pairs = [
        (value, probe.reference[name])
        for name, value in probe.network.named_parameters()
        if name in probe.reference
    ]
    return {"": _norm(value.detach() - start.to(value) for value, start in pairs)} if pairs else {}


@metric(
    "gradient_norm",
    formula="||g||_2 of the gradients the last update left, after clipping if any",
    range="[0, inf)",
    healthy="stable, not vanishing",
    cost="free",
    paper="arXiv 2606.09762",
)
def gradient_norm(probe: Probe) -> Values:
    """Absent where no parameter holds a gradient."""
    gradients = [p.grad for p in probe.network.parameters() if p.grad is not None]
    return {"": _norm(gradients)} if gradients else {}


class GradientCosine:
    """The cosine between the gradients of successive calls: whether updates agree or undo each other.

    It has a memory, one gradient, and so stands beside the metrics. Call it after backward.
    """

    def __init__(self) -> None:
        self._last: Tensor | None = None

    def __call__(self, module: nn.Module) -> Tensor:
        """Cos(g_t, g_{t-1}), 0-d; NaN at the first call and where a gradient is zero."""
        g = torch.cat([_gradient(p).flatten().float() for p in module.parameters() if p.requires_grad])
        last, self._last = self._last, g
        if last is None or last.shape != g.shape:
            return g.new_tensor(torch.nan)
        return F.cosine_similarity(g, last, dim=0, eps=0)


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach().clone()


def _norm(tensors: Iterable[Tensor]) -> Tensor:
    norms = [torch.linalg.vector_norm(t.detach(), dtype=_at_least_single(t)) for t in tensors]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())


def _at_least_single(t: Tensor) -> torch.dtype:
    return torch.promote_types(t.dtype, torch.float32) if not t.is_complex() else torch.complex64
