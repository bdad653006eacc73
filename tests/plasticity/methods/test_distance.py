"""The written-out gradient is autograd's."""

import pytest
import torch

from isorl.plasticity.methods.distance import squared_distance


@pytest.mark.parametrize("from_origins", [False, True])
def test_value_and_gradient(from_origins):
    torch.manual_seed(0)
    shapes = [(4, 3), (5,), ()]
    parameters = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    origins = [torch.randn(shape, dtype=torch.float64) for shape in shapes] if from_origins else None
    away = [p - o for p, o in zip(parameters, origins or [0.0] * len(parameters), strict=True)]
    expected = 0.3 * sum(each.square().sum() for each in away)
    found = 0.3 * squared_distance(parameters, origins)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, parameters), torch.autograd.grad(expected, parameters)
    )
    zero = torch.zeros(3, requires_grad=True)
    (slope,) = torch.autograd.grad(squared_distance([zero]), [zero])
    assert torch.equal(slope, torch.zeros(3))
