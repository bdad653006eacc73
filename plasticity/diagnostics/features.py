"""The representation: ranks and norm of the features Phi (B, F) that the last layer reads.

Peers use these three names for one another's formulas; each stands here with its own.
"""

from __future__ import annotations

from isorl.plasticity.diagnostics import spectra
from isorl.plasticity.diagnostics.metric import Values, metric
from isorl.plasticity.diagnostics.probe import Probe
from isorl.plasticity.linalg import at_least_single

_COST = "an eigendecomposition of min(B, F)"


@metric(
    "feature_srank",
    formula="least k whose largest k singular values of Phi hold 99 % of their sum",
    range="[0, min(B, F)]",
    healthy="high",
    cost=_COST,
    paper="Kumar et al. 2021, arXiv 2010.14498",
)
def feature_srank(probe: Probe) -> Values:
    """Counts the directions in use, by a threshold."""
    return {"": spectra.srank(probe.feature_singular_values)}


@metric(
    "feature_effective_rank",
    formula="exp H(sigma(Phi) / sum sigma(Phi))",
    range="[0, min(B, F)]",
    healthy="high",
    cost=_COST,
    paper="Roy & Vetterli 2007",
)
def feature_effective_rank(probe: Probe) -> Values:
    """Counts the directions in use, by entropy."""
    return {"": spectra.effective_rank(probe.feature_singular_values)}


@metric(
    "feature_stable_rank",
    formula="||Phi||_F^2 / ||Phi||_2^2",
    range="[0, min(B, F)]",
    healthy="high",
    cost=_COST,
    paper="Rudelson & Vershynin 2007",
)
def feature_stable_rank(probe: Probe) -> Values:
    """Counts the directions in use, by energy."""
    return {"": spectra.stable_rank(probe.feature_singular_values)}


@metric(
    "feature_norm",
    formula="mean over samples of ||phi(x)||_2",
    range="[0, inf)",
    healthy="stable",
    cost="free",
    paper="-",
)
def feature_norm(probe: Probe) -> Values:
    """Measures the scale of the representation."""
    return {"": at_least_single(probe.record.features()).norm(dim=1).mean()}
