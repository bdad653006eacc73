"""AdamO's strength as a half-life: after how many updates the isometry step has halved a deviation."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from isorl.plasticity import (
    AdamO,
    NetworkSpec,
    build_mlp,
    isometry_half_life,
    isometry_lambda,
    parameter_groups,
)


def test_measured_half_life():
    W = torch.linalg.qr(torch.randn(20, 20))[0] * math.sqrt(2.02)
    W = nn.Parameter(W)
    W.grad = torch.zeros_like(W)
    optimizer = AdamO([{"params": [W], "isometric": True}], lr=1e-2, iso_lambda=0.1, iso_target=2.0)
    life = round(optimizer.half_life())
    for _ in range(life):
        optimizer.step()
    deviation = (torch.linalg.svdvals(W.detach()).square() - 2).mean().item()
    assert deviation == pytest.approx(0.01, rel=0.1)


def test_half_life_of_the_reported_settings():
    assert isometry_half_life(1e-3, 1e-3) == pytest.approx(86_643, rel=1e-3)
    assert isometry_half_life(1e-3, 0) == math.inf
    assert isometry_half_life(1.0, 100.0, iso_every=4) == 4


def simulated_half_life(half_life, lr, target, every, start):
    """Updates after which the isometry step alone has halved |sigma^2 - s| of a matrix of equal singular values."""
    torch.manual_seed(0)
    Q = torch.linalg.qr(torch.randn(6, 6, dtype=torch.double))[0]
    W = nn.Parameter(Q * math.sqrt(target * start))
    W.grad = torch.zeros_like(W)
    groups = [{"params": [W], "isometric": True}]
    optimizer = AdamO(groups, lr=lr, iso_half_life=half_life, iso_target=target, iso_every=every)
    first = abs(start - 1)
    for update in range(1, 100 * round(half_life)):
        optimizer.step()
        if abs(torch.linalg.svdvals(W.detach()).square().mean().item() / target - 1) <= first / 2:
            return update
    raise AssertionError("it never halves")


@given(st.floats(8, 400), st.floats(1e-5, 1e-1), st.floats(0.5, 3), st.sampled_from([1, 4, 7]), st.booleans())
@settings(max_examples=20, deadline=None)
def test_a_half_life_is_what_the_step_does_near_isometry(half_life, lr, target, every, above):
    found = simulated_half_life(half_life, lr, target, every, 1.001 if above else 0.999)
    assert abs(found - half_life) <= every + 0.01 * half_life  # the step is seen at every k-th update alone


@pytest.mark.parametrize("start", [2.0, 0.5])
def test_further_from_isometry_it_takes_the_stated_number_of_half_lives(start):
    found = simulated_half_life(500.0, 1e-3, 2.0, 1, start)
    assert found / 500 == pytest.approx(math.log2((1 + start) / start), rel=0.01)


@given(st.floats(4, 1e6), st.floats(1e-6, 1), st.floats(0.1, 4), st.integers(1, 4))
def test_half_life_and_lambda_are_inverse(half_life, lr, target, every):
    found = isometry_lambda(half_life, lr, target, every)
    assert isometry_half_life(lr, found, target, every) == pytest.approx(half_life, rel=1e-6)


def test_a_half_life_holds_for_every_group_at_its_own_rate():
    body, other = (nn.Parameter(torch.randn(4, 4)) for _ in range(2))
    groups = [
        {"params": [body], "isometric": True, "lr": 1e-2},
        {"params": [other], "isometric": True, "iso_lambda": 0.3},
    ]
    optimizer = AdamO(groups, lr=1e-3, iso_half_life=300.0)
    first, second = optimizer.param_groups
    assert isometry_half_life(1e-2, first["iso_lambda"], 1.0, 4) == pytest.approx(300)
    assert second["iso_lambda"] == 0.3
    assert "iso_half_life" not in first


def test_a_strength_is_given_once_and_possible():
    groups = parameter_groups(build_mlp(6, NetworkSpec(widths=(16, 8))))
    with pytest.raises(ValueError, match=r"iso_lambda=0.1 and iso_half_life=50 both give the strength"):
        AdamO(groups, iso_lambda=0.1, iso_half_life=50)
    with pytest.raises(
        ValueError, match="iso_half_life is 3 updates; it must be finite and at least iso_every=4"
    ):
        AdamO(groups, iso_half_life=3)
    with pytest.raises(ValueError, match="needs a learning rate above 0, got 0"):
        AdamO(groups, lr=0.0, iso_half_life=30)


def test_it_warns_when_it_cannot_act():
    optimizer = AdamO(parameter_groups(build_mlp(6, NetworkSpec(widths=(16, 8)))), iso_lambda=1e-3)
    with pytest.warns(UserWarning, match=r"half-life is 86,\d+ updates but 512 are planned"):
        optimizer.half_life(planned_updates=512)
    with pytest.warns(UserWarning, match="cannot act"):
        isometry_half_life(1e-3, 1e-3, planned_updates=512)


def test_a_group_that_is_left_free_needs_no_rate():
    held, free = (nn.Parameter(torch.eye(3)) for _ in range(2))
    groups = [{"params": [held], "isometric": True}, {"params": [free], "isometric": False, "lr": 0.0}]
    optimizer = AdamO(groups, lr=1e-3, iso_half_life=2000)
    assert optimizer.half_life() == pytest.approx(2000)
