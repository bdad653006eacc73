"""The direct measure: how well can a copy of the network still fit something new?"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isorl.plasticity.diagnostics.metric import Values, metric
from isorl.plasticity.diagnostics.probe import Probe
from isorl.plasticity.diagnostics.undisturbed import undisturbed
from isorl.plasticity.networks.isometric import project_


def fit_random_targets(
    network: nn.Module, batch: Tensor, steps: int = 100, lr: float = 1e-3, seed: int = 0
) -> Tensor:
    """Returns the share of the squared error left after `steps` of Adam on random targets, 0-d; 1 is no progress.

    Lyle et al. 2023 (arXiv 2303.01486). A clone is trained on the batch; the targets come from a generator
    of their own: neither the network nor the random streams are touched. Targets are offsets to the present
    outputs, so that a head that has grown large is no handicap.
    """
    with undisturbed(network, batch.device, grad=True):
        clone = copy.deepcopy(network)
        if not any(parameter.requires_grad for parameter in clone.parameters()):
            clone.requires_grad_()  # of a network that is only looked at; else what is frozen stays so
        start = clone(batch).detach()
        noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(seed))
        target = start + noise.to(start)
        optimizer = torch.optim.Adam(clone.parameters(), lr)
        for _ in range(steps):
            optimizer.zero_grad()
            F.mse_loss(clone(batch), target).backward()
            optimizer.step()
            project_(clone)
        with torch.no_grad():
            return F.mse_loss(clone(batch), target) / noise.square().mean().to(start)


@metric(
    "trainability_error",
    formula="MSE of a clone after 100 Adam steps on f(x) + N(0, 1), over the MSE before",
    range="[0, inf)",
    healthy="low",
    cost="100 updates",
    paper="Lyle et al. 2023, arXiv 2303.01486",
)
def trainability_error(probe: Probe) -> Values:
    """Trains a copy on random targets and measures how far it gets."""
    return {"": fit_random_targets(probe.network, probe.batch)}
