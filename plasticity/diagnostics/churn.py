"""Churn: what happened to outputs on the probe batch since an earlier moment, here the last measurement.

Policy churn is that of an actor or a Q-network, value churn that of a critic or a Q-network. Absent where `diagnose`
is given no earlier parameters and buffers (`previous`), as at a run's first measurement.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call

from isorl.plasticity.diagnostics.metric import Values, metric
from isorl.plasticity.diagnostics.ntk import outputs
from isorl.plasticity.diagnostics.probe import Probe


@metric(
    "churn_of_actions",
    formula="share of samples whose largest output is another one than before; absent for a single output",
    range="[0, 1]",
    healthy="low while the policy is good",
    cost="one forward pass",
    paper="Schaul et al. 2022, arXiv 2206.00730",
)
def churn_of_actions(probe: Probe) -> Values:
    """Counts the samples on which a greedy policy acts otherwise; for Gaussian actions it means nothing."""
    before, now = _outputs(probe)
    if before is None or now.shape[1] < 2:
        return {}
    return {"": (before.argmax(1) != now.argmax(1)).float().mean()}


@metric(
    "churn_of_outputs",
    formula="mean over samples and outputs of |f(x) - f_before(x)|",
    range="[0, inf)",
    healthy="low",
    cost="shared with churn_of_actions",
    paper="Tang et al. 2024, arXiv 2409.04792",
)
def churn_of_outputs(probe: Probe) -> Values:
    """Measures by how much values, logits or means of actions have changed."""
    before, now = _outputs(probe)
    return {} if before is None else {"": (now - before).abs().mean()}


def _outputs(probe: Probe) -> tuple[Tensor | None, Tensor]:
    """Returns the outputs (B, C) before, if that is known, and now."""
    now = outputs(probe.record).detach().float()
    if not probe.previous:
        return None, now
    state = {**dict(probe.network.named_parameters()), **dict(probe.network.named_buffers())}
    with probe.undisturbed(), torch.no_grad():
        earlier = probe.earlier(probe.previous, state)
        # clones, as a forward pass may write to buffers
        before = functional_call(
            probe.network, {name: value.clone() for name, value in earlier.items()}, probe.batch
        )
    return before.reshape(now.shape).float(), now
