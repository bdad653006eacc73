"""Muon on the matrices of many runs at once: torch's own, within the rounding of bfloat16."""

import pytest
import torch
from torch import nn

from isorl.agents.batched.optimizer import muon_step, orthogonalised

SHAPES = {"square": (64, 64), "wide": (27, 64), "tall": (64, 27), "odd": (5, 3), "one row": (1, 7)}
CONSTANTS = ((3.4445, -4.775, 2.0315), 5, 1e-7)


def alone(weights, gradients, steps, **options):
    """torch.optim.Muon's weights after `steps` with gradients of their own each."""
    made = []
    for run, weight in enumerate(weights):
        parameter = nn.Parameter(weight.clone())
        optimizer = torch.optim.Muon([parameter], weight_decay=0.0, adjust_lr_fn="match_rms_adamw", **options)
        for step in range(steps):
            parameter.grad = gradients[step, run]
            optimizer.step()
        made.append(parameter.detach())
    return torch.stack(made)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("momentum", [0.0, 0.95])
def test_every_run_takes_torchs_step(shape, momentum):
    torch.manual_seed(0)
    weights, gradients = torch.randn(4, *shape), torch.randn(3, 4, *shape)
    gradients[:, 3] = 0
    expected = alone(weights, gradients, 3, lr=0.02, momentum=momentum)
    group = torch.optim.Muon([nn.Parameter(weights[0])], lr=0.02, momentum=momentum).param_groups[0]
    options = {name: group[name] for name in ("lr", "momentum", "ns_coefficients", "ns_steps", "eps")}
    momenta = torch.zeros_like(weights)
    for gradient in gradients:
        muon_step(weights, gradient, momenta, **options)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-3)  # a step is ten times as long


def test_a_matrix_does_not_depend_on_the_others():
    """To the bit, also where it is alone: of some tens of small matrices torch's own paths differ."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        matrices = torch.randn(5, 16, 16, generator=generator) * torch.logspace(0, -4, 16)
        found = orthogonalised(matrices, *CONSTANTS)
        for some in (slice(0, 1), slice(1, 3), slice(4, 5)):
            assert torch.equal(orthogonalised(matrices[some], *CONSTANTS), found[some])


def test_singular_values_come_near_one():
    matrices = torch.randn(3, 40, 60, generator=torch.Generator().manual_seed(1))
    found = orthogonalised(matrices, *CONSTANTS).float()
    assert torch.linalg.svdvals(found).sub(1).abs().max() < 0.5
