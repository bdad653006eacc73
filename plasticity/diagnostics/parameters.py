"""Parameters as one vector theta: its norm, its distance from an earlier value, and its gradient."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

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
    """Measures the scale of the parameters; per layer that of its weight and bias."""
    layers = {layer.name: _norm(layer.module.parameters()) for layer in probe.record.layers}
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
    """Measures how far training has carried the parameters; absent without a reference of the network."""
    if not probe.reference:
        return {}
    theta = dict(probe.network.named_parameters())
    start = probe.earlier(probe.reference, theta)
    return {"": _norm(value.detach() - start[name] for name, value in theta.items())}


@metric(
    "gradient_norm",
    formula="||g||_2 of the gradients the last update left, after clipping if any",
    range="[0, inf)",
    healthy="stable, not vanishing",
    cost="free",
    paper="arXiv 2606.09762",
)
def gradient_norm(probe: Probe) -> Values:
    """Measures the size of the last gradient; absent where no parameter holds one."""
    gradients = [p.grad for p in probe.network.parameters() if p.grad is not None]
    return {"": _norm(gradients)} if gradients else {}


def _norm(tensors: Iterable[Tensor]) -> Tensor:
    norms = [torch.linalg.vector_norm(t.detach(), dtype=_at_least_single(t)) for t in tensors]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())


def _at_least_single(t: Tensor) -> torch.dtype:
    return torch.promote_types(t.dtype, torch.float32) if not t.is_complex() else torch.complex64
