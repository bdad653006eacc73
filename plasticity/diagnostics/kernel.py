"""Numbers read from the spectrum of the empirical NTK: is progress as fast in every output direction?

K (N C, N C) over the first N = min(64, 256 / C) samples of the probe batch; lambda its eigenvalues. Identical
samples make K singular whatever the network: a condition number says nothing on a batch with duplicates.
"""

from __future__ import annotations

from isorl.plasticity.diagnostics import spectra
from isorl.plasticity.diagnostics.isometry import spread
from isorl.plasticity.diagnostics.metric import Values, metric
from isorl.plasticity.diagnostics.probe import Probe

_PAPER = "Jacot et al. 2018, arXiv 1806.07572; arXiv 2606.09762"


@metric(
    "ntk_spectrum",
    formula="lambda_i(K)",
    range="[0, inf)",
    healthy="narrow",
    cost="about one minibatch of 256, an eigendecomposition of at most 256",
    paper=_PAPER,
)
def ntk_spectrum(probe: Probe) -> Values:
    """Returns the whole spectrum, for a histogram."""
    return {"": probe.ntk_eigenvalues}


@metric(
    "ntk_condition",
    formula="lambda_max / lambda_min, a lower bound once beyond 1 / (N C 1.2e-7)",
    range="[1, 1e7)",
    healthy="low",
    cost="shared with ntk_spectrum",
    paper=_PAPER,
    at_cap=spectra.is_at_cap,
)
def ntk_condition(probe: Probe) -> Values:
    """Measures how unequal progress is in the worst case."""
    return {"": spectra.condition(probe.ntk_eigenvalues)}


@metric(
    "ntk_effective_rank",
    formula="exp H(lambda / sum lambda)",
    range="[1, N C]",
    healthy="high",
    cost="shared with ntk_spectrum",
    paper="Roy & Vetterli 2007, on K",
)
def ntk_effective_rank(probe: Probe) -> Values:
    """Counts the directions in which outputs can move."""
    return {"": spectra.effective_rank(probe.ntk_eigenvalues)}


@metric(
    "ntk_index",
    formula="std / mean of lambda",
    range="[0, sqrt(N C - 1)]",
    healthy="low: it rises with anisotropy",
    cost="shared with ntk_spectrum",
    paper=_PAPER,
)
def ntk_index(probe: Probe) -> Values:
    """Measures how unequal progress is overall; the adaptive strength watches it."""
    return {"": spread(probe.ntk_eigenvalues)}


@metric(
    "ntk_trace",
    formula="sum lambda / (N C) = mean of ||d f_c(x) / d theta||^2",
    range="[0, inf)",
    healthy="stable",
    cost="shared with ntk_spectrum",
    paper=_PAPER,
)
def ntk_trace(probe: Probe) -> Values:
    """Measures the scale of the output gradients."""
    return {"": probe.ntk_eigenvalues.mean()}
