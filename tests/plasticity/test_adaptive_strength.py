import math
import types

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from isorl.plasticity import AdamO, AdaptiveStrength, NetworkSpec, build_mlp, parameter_groups
from isorl.plasticity.methods.adaptive_isometry import INDICES


def controller(**options):
    return AdaptiveStrength(AdamO(parameter_groups(build_mlp(3, NetworkSpec((4, 4))))), **options)


def test_it_doubles_when_plasticity_declines_and_waits_for_the_effect():
    control = controller(patience=2)
    decisions = [control.update(index, 0.5 - 0.1 * i) for i, index in enumerate([1.0, 1.2, 2.0, 2.0, 2.0])]
    assert [d.after for d in decisions] == [0.01, 0.01, 0.02, 0.02, 0.04]
    assert [d.reason for d in decisions] == [
        "steady",
        "steady",
        "plasticity declines",
        "waiting for the last change to act",
        "plasticity declines",
    ]
    assert control.penalty.param_groups[0]["iso_lambda"] == 0.04


def test_it_verifies_that_dormant_units_fall():
    control = controller(patience=1)
    control.update(1.0, 0.2)
    assert control.update(2.0, 0.3).reason == "plasticity declines"
    assert control.update(1.3, 0.3).reason == "dormant units did not fall after the last rise"
    assert control.update(1.3, 0.1).reason == "steady"


def test_it_lowers_only_once_all_is_well():
    control = controller(patience=1, start=0.08)
    assert control.update(1.0, 0.1).after == 0.08
    assert control.update(1.0, 0.0).after == 0.04
    assert control.update(1.3, 0.0).after == 0.04  # between recovery and decline: hysteresis


@given(st.lists(st.tuples(st.just(math.nan) | st.floats(0, 10), st.floats(0, 1)), max_size=40))
def test_the_strength_stays_within_its_bounds(measurements):
    control = controller(minimum=0.005, maximum=0.3)
    for index, dormant in measurements:
        before = control.strength
        decision = control.update(index, dormant)
        assert 0.005 <= control.strength <= 0.3
        assert decision.before == before
        assert decision.after in (before, min(2 * before, 0.3), max(before / 2, 0.005))
    assert len(control.log) == len(measurements)


def test_a_failed_measurement_changes_nothing():
    control = controller()
    assert control.update(math.nan, math.nan).reason == "index not measured"
    assert control.update(1.0).reason == "plasticity is back"


def test_a_switch_takes_a_new_baseline():
    control = controller(patience=1)
    control.update(1.0, 0.1)
    control.rebase()
    assert control.update(5.0, 0.1).after == 0.01


def test_resume():
    straight, resumed = controller(), controller()
    series = [(1.0, 0.1), (2.0, 0.1), (2.0, 0.2), (3.0, 0.2), (1.0, 0.0), (1.0, 0.0), (4.0, 0.3)]
    for i, measurement in enumerate(series):
        straight.update(*measurement)
        if i == 3:
            state = resumed.state_dict()
            resumed = controller()
            resumed.load_state_dict(state)
        resumed.update(*measurement)
    assert [repr(d) for d in straight.log] == [repr(d) for d in resumed.log]


BAD = [
    ({"start": 20.0}, "0 < minimum <= start <= maximum"),
    ({"minimum": -1.0}, "0 < minimum <= start"),
    ({"factor": 1.0}, "factor must exceed 1"),
    ({"decline": 1.0}, "decline >= recovery"),
    ({"patience": 0}, "patience"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=str)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        controller(**options)


def test_an_optimizer_without_isometric_groups():
    with pytest.raises(ValueError, match="no isometric group"):
        AdaptiveStrength(torch.optim.Adam(nn.Linear(2, 2).parameters()))


def test_a_penalty_of_the_loss_is_controlled_alike():
    penalty = types.SimpleNamespace(strength=1.0)
    control = AdaptiveStrength(penalty, start=0.5, minimum=0.1, patience=1)
    assert penalty.strength == 0.5
    control.update(1.0, 0.2)
    assert control.update(2.0, 0.2).after == penalty.strength == control.strength == 1.0


def test_an_index_rises_as_plasticity_declines():
    rank = INDICES["feature_effective_rank"]
    assert [rank(4.0), rank(1.0), rank(0.0)] == [0.25, 1.0, math.inf]
    for name, worse in {"ntk_index": (1, 2), "dormant_units": (0, 1), "gram_deviation": (0, 1)}.items():
        better, worst = map(INDICES[name], worse)
        assert 0 < better < worst < math.inf
