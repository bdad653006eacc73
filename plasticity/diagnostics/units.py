"""Units that have stopped responding.

Two definitions, which disagree: by how often a unit is zero, and by its share of the layer's activity. A unit
of a convolution is a channel; its samples are all images and pixels. Rates are pooled over units, not
averaged over layers, so that wide layers count for more.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from isorl.plasticity.diagnostics.metric import Values, metric
from isorl.plasticity.diagnostics.probe import Probe
from isorl.plasticity.linalg import at_least_single

ZERO_RATE = 0.95
REDO_TAU = 0.025  # Sokar et al. 2023; 0.1 is also usual


def zero_rate(h: Tensor) -> Tensor:
    """Returns the share of samples in which each unit of h (S, O) is exactly zero; NaN where one is not finite."""
    return (h == 0).to(h.dtype).mean(0) + 0 * h.sum(0)


def redo_score(h: Tensor) -> Tensor:
    """Returns E|h_i| / mean_j E|h_j| for each unit of h (S, O); 0 in a layer that is silent altogether."""
    activity = h.abs().mean(0)
    return activity / activity.mean().clamp(min=torch.finfo(h.dtype).tiny)


@metric(
    "dormant_units",
    formula="share of units with P(h_i = 0) > 0.95",
    range="[0, 1]",
    healthy="low",
    cost="free",
    paper="arXiv 2606.09762",
)
def dormant_units(probe: Probe) -> Values:
    """Counts the units that are silent on almost every sample."""
    return _pooled_over_units(probe, lambda h: _where_finite(zero_rate(h), lambda rate: rate > ZERO_RATE))


@metric(
    "dormant_units_redo",
    formula="share of units with E|h_i| / mean_j E|h_j| <= 0.025",
    range="[0, 1]",
    healthy="low",
    cost="free",
    paper="Sokar et al. 2023, arXiv 2302.12902",
)
def dormant_units_redo(probe: Probe) -> Values:
    """Counts the units that contribute almost nothing to their layer's activity."""
    return _pooled_over_units(probe, lambda h: _where_finite(redo_score(h), lambda score: score <= REDO_TAU))


def _where_finite(x: Tensor, test: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.where(torch.isfinite(x), test(x).to(x.dtype), torch.nan)


def _by_unit(h: Tensor, copies: int) -> Tensor:
    """Outputs (S, c U) of units that give out c each (CReLU) as (S c, U): silent is a unit whose outputs all are."""
    return h.reshape(len(h) * copies, -1)


def _pooled_over_units(probe: Probe, dormant: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    units = {
        layer.name: dormant(_by_unit(at_least_single(layer.units()), getattr(layer.activation, "copies", 1)))
        for layer in probe.record.understood()
        if layer.after
    }
    if not units:
        return {}
    return {
        "": torch.cat(list(units.values())).mean(),
        **{name: flags.mean() for name, flags in units.items()},
    }
