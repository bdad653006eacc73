"""The curvature of a new task: the Hessian H of the squared error to f(x) + N(0, 1), by products with vectors.

The loss is the one that `trainability_error` trains on: it asks for no labels, and its gradient is not zero. H is
never formed; scipy's `eigsh` (ARPACK's implicitly restarted Lanczos) finds eigenvalues from products H v, each of
which costs two backward passes. Networks of more than MAX_PARAMETERS are refused: Lanczos vectors would take gigabytes.

Shapes: P parameters, the first N = min(64, B) samples.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isorl.plasticity.diagnostics.metric import Values, metric
from isorl.plasticity.diagnostics.ntk import differentiable
from isorl.plasticity.diagnostics.probe import Probe
from isorl.plasticity.diagnostics.record import NotMeasurableError
from isorl.plasticity.diagnostics.undisturbed import undisturbed

SAMPLES = 64
MAX_PARAMETERS = 1 << 19
FEW = 256
"""Parameters up to which H is formed: Lanczos needs more of them than it finds eigenvalues."""
RANK_CAP, EPSILON = 32, 0.01
_PAPER = "Prakash et al. 2026, arXiv 2509.22335; Lehoucq et al. 1998 (ARPACK)"


@metric(
    "hessian_max",
    formula="largest eigenvalue of H",
    range="(-inf, inf)",
    healthy="below 2 / learning rate",
    cost="some tens of updates",
    paper=_PAPER,
)
def hessian_max(probe: Probe) -> Values:
    """Measures the sharpest direction of a new task."""
    return {"": hessian_extremes(probe)[1]}


@metric(
    "hessian_min",
    formula="least eigenvalue of H",
    range="(-inf, inf)",
    healthy="near 0",
    cost="shared with hessian_max",
    paper=_PAPER,
)
def hessian_min(probe: Probe) -> Values:
    """Measures the most negative curvature of a new task."""
    return {"": hessian_extremes(probe)[0]}


@metric(
    "hessian_epsilon_rank",
    formula=f"number of eigenvalues of H with |lambda| > {EPSILON} max|lambda|; {RANK_CAP} is a lower bound",
    range=f"[0, {RANK_CAP}]",
    healthy="high",
    cost="some hundred updates",
    paper=_PAPER,
    at_cap=lambda rank: rank >= RANK_CAP,
)
def hessian_epsilon_rank(probe: Probe) -> Values:
    """Counts the directions in which a new task has curvature; the paper's epsilon is absolute."""
    sizes = eigenvalues(probe.network, probe.batch[:SAMPLES], "LM", RANK_CAP).abs()
    return {"": (sizes > EPSILON * sizes.max()).sum() + 0 * sizes.sum()}  # the last term keeps a NaN


def hessian_extremes(probe: Probe) -> Tensor:
    """Returns the least and the largest eigenvalue (2,), once per probe."""
    return probe.once("hessian_extremes", lambda: eigenvalues(probe.network, probe.batch[:SAMPLES], "BE", 2))


def eigenvalues(network: nn.Module, batch: Tensor, which: str, count: int) -> Tensor:
    """Returns `count` eigenvalues of H, ascending, in double precision; NaN where a product is not finite.

    Args:
        network: maps `batch` to one tensor.
        batch: (N, ...).
        which: "LM" those of largest size, "BE" half of them from either end.
        count: fewer are returned of a network with fewer parameters.

    Raises:
        NotMeasurableError: the network has too many parameters, or its output depends on none.
    """
    # scipy is a dependency of this module alone: whoever uses the rest of `plasticity` needs torch and numpy
    from scipy.sparse.linalg import LinearOperator, eigsh

    with undisturbed(network, batch.device, grad=True), differentiable(network):
        parameters = [p for p in network.parameters() if p.requires_grad]
        size = sum(p.numel() for p in parameters)
        if size > MAX_PARAMETERS:
            raise NotMeasurableError(
                f"{size:,} parameters are too many for Lanczos; {MAX_PARAMETERS:,} are not"
            )
        product = _product(network, batch, parameters)
        if size <= FEW:
            H = np.stack([product(row) for row in np.eye(size)])
            if not np.isfinite(H).all():
                return torch.full((count,), torch.nan, dtype=torch.double)
            values = np.linalg.eigvalsh((H + H.T) / 2)
            keep = np.argsort(-np.abs(values))[:count] if which == "LM" else [0, -1]
            return torch.from_numpy(np.sort(values[keep]))
        start = np.random.default_rng(0).standard_normal(size)
        if not np.isfinite(product(start)).all():
            return torch.full((count,), torch.nan, dtype=torch.double)
        H_v = LinearOperator((size, size), matvec=product, dtype=np.float64)
        found = eigsh(H_v, k=count, which=which, v0=start, tol=1e-3, return_eigenvectors=False)
        return torch.from_numpy(np.sort(found))


def _product(
    network: nn.Module, batch: Tensor, parameters: list[nn.Parameter]
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the function v (P,) -> H v (P,), computed in the network's precision on arrays of doubles."""
    f = network(batch)
    noise = torch.randn(f.shape, generator=torch.Generator().manual_seed(0)).to(f)
    loss = F.mse_loss(f, f.detach() + noise)
    used = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
    gradient = torch.cat([g.flatten() for g in used])

    def product(v: np.ndarray) -> np.ndarray:
        along = gradient @ torch.from_numpy(v.ravel()).to(gradient)
        found = torch.autograd.grad(along, parameters, retain_graph=True, materialize_grads=True)
        return torch.cat([g.flatten() for g in found]).double().cpu().numpy()

    return product
