import math

import numpy as np
import pytest
import torch
from torch import nn

from isorl.plasticity import (
    DEFAULT_METRICS,
    METRICS,
    NetworkSpec,
    build_mlp,
    build_nature_cnn,
    diagnose,
    report,
    snapshot,
)
from isorl.plasticity.diagnostics import Metric, metric, spectra


def agent(device="cpu"):
    body = build_nature_cnn((2, 36, 36), NetworkSpec(), 32)
    return {
        "actor": nn.Sequential(body, nn.Linear(32, 4)).to(device),
        "critic": nn.Sequential(body, nn.Linear(32, 1)).to(device),
    }


def test_keys_and_kinds(device):
    values = diagnose(agent(device), torch.rand(8, 2, 36, 36))
    applicable = set(DEFAULT_METRICS) - {"weight_distance", "gradient_norm"}
    for name in ("actor", "critic"):
        assert applicable <= {key.split("/")[1] for key in values if key.split("/")[2] == name}
    assert isinstance(values["plasticity/dormant_units/actor"], float)
    assert isinstance(values["plasticity/dormant_units/actor/conv1"], float)
    assert values["plasticity/ntk_spectrum/actor"].shape == (8 * 4,)
    assert all(isinstance(v, float) or (v.ndim == 1 and v.device.type == "cpu") for v in values.values())


def test_shared_layers_are_decomposed_once(monkeypatch):
    calls = []
    original = spectra.singular_values
    monkeypatch.setattr(spectra, "singular_values", lambda W: calls.append(1) or original(W))
    diagnose(agent(), torch.rand(4, 2, 36, 36), ["gram_deviation"])
    assert len(calls) == 6  # four shared layers, two heads


@pytest.mark.parametrize(
    ("given", "near"), [("dormat_units", "dormant_units"), ("ntk_conditon", "ntk_condition")]
)
def test_an_unknown_metric_suggests_the_nearest(given, near):
    with pytest.raises(ValueError, match=f"unknown metric '{given}'. Did you mean '{near}'"):
        diagnose(agent(), torch.rand(4, 2, 36, 36), [given])


@pytest.mark.parametrize("broken", ["0.weight", "2.bias"])
def test_broken_weights_are_nan_with_one_warning(broken):
    network = build_mlp(4, NetworkSpec((8, 8)))
    dict(network.named_parameters())[broken].data[0] = math.nan
    with pytest.warns(RuntimeWarning, match="could not measure .* logged as NaN") as caught:
        values = diagnose({"net": network}, torch.randn(5, 4), list(METRICS))
    assert len(caught) == 1
    for key in ("ntk_condition", "weight_norm", "dormant_units", "dormant_units_redo"):
        assert math.isnan(values[f"plasticity/{key}/net"])
    if broken == "0.weight":
        assert math.isnan(values["plasticity/feature_srank/net"])
    else:
        assert math.isfinite(values["plasticity/gram_deviation/net"])
        assert values["plasticity/dormant_units/net/linear1"] >= 0


def test_a_metric_that_raises_does_not_stop_the_run(monkeypatch):
    def fail(probe):
        raise RuntimeError("did not converge")

    failing = Metric("failing", "-", "-", "-", "-", "-", fail)
    monkeypatch.setitem(METRICS._entries, "failing", failing)
    with pytest.warns(RuntimeWarning, match="did not converge"):
        values = diagnose({"net": nn.Linear(2, 1)}, torch.randn(3, 2), ["failing", "weight_norm"])
    assert math.isnan(values["plasticity/failing/net"])
    assert values["plasticity/weight_norm/net"] > 0


@pytest.mark.parametrize(
    "value",
    [0.1, np.float64(0.1), np.array(0.1), torch.tensor(0.1, dtype=torch.float64, requires_grad=True)],
    ids=repr,
)
def test_a_metric_may_return_numbers(monkeypatch, value):
    own = Metric("own", "-", "-", "-", "-", "-", lambda probe: {"": value, "0": value})
    monkeypatch.setitem(METRICS._entries, "own", own)
    values = diagnose({"net": nn.Linear(2, 1)}, torch.randn(3, 2), ["own"])
    assert values == {"plasticity/own/net": 0.1, "plasticity/own/net/0": 0.1}


def test_what_is_no_number_is_nan(monkeypatch):
    monkeypatch.setitem(
        METRICS._entries, "own", Metric("own", "-", "-", "-", "-", "-", lambda probe: {"": None})
    )
    with pytest.warns(RuntimeWarning, match=r"could not measure plasticity/own/net \(None is no number\)"):
        values = diagnose({"net": nn.Linear(2, 1)}, torch.randn(3, 2), ["own"])
    assert math.isnan(values["plasticity/own/net"])


def test_a_batch_of_one_and_a_single_output():
    values = diagnose({"net": build_mlp(3, NetworkSpec((4, 1), "tanh"))}, torch.randn(1, 3), list(METRICS))
    assert values["plasticity/ntk_condition/net"] == 1
    assert values["plasticity/ntk_index/net"] == 0


def test_a_dead_network_has_rank_zero():
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    network[0].bias.data.fill_(-100)
    values = diagnose({"net": network}, torch.rand(6, 3))
    assert values["plasticity/dormant_units/net"] == 1
    assert values["plasticity/dormant_units_redo/net"] == 1
    assert values["plasticity/feature_srank/net"] == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype):
    network = nn.Sequential(build_mlp(4, NetworkSpec((8, 8))), nn.Linear(8, 2)).to(dtype)
    values = diagnose({"net": network}, torch.randn(6, 4))
    assert all(math.isfinite(v) for v in values.values() if isinstance(v, float))


def test_distance_is_measured_from_the_snapshot():
    networks = agent()
    start = snapshot(networks)
    x = torch.rand(2, 2, 36, 36)
    assert diagnose(networks, x, ["weight_distance"], start)["plasticity/weight_distance/actor"] == 0
    with torch.no_grad():
        networks["actor"][1].bias += 1
    assert diagnose(networks, x, ["weight_distance"], start)["plasticity/weight_distance/actor"] == 2


def test_registering_a_metric_is_one_decorator(monkeypatch):
    monkeypatch.setattr(METRICS, "_entries", dict(METRICS._entries))

    @metric("outputs", formula="C", range="-", healthy="-", cost="-", paper="-")
    def outputs(probe):
        return {"": torch.tensor(float(probe.record.output.shape[1]))}

    assert diagnose({"net": nn.Linear(2, 3)}, torch.randn(3, 2), ["outputs"])["plasticity/outputs/net"] == 3


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.cell = nn.Linear(4, 6), nn.Linear(6, 6), nn.GRUCell(6, 6)
        self.act, self.head = nn.ReLU(), nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.cell(self.act(self.second(self.first(x).relu()))))


def test_a_report_says_what_it_leaves_out():
    text = str(report(Odd(), torch.randn(9, 4)))
    assert "linear3: head, Linear" in text
    assert "note: what follows first is not one activation module" in text
    assert "note: no layer figures of cell (GRUCell)" in text
    assert "dormant_units" in text


def test_a_report_on_a_module_without_layers():
    result = report(nn.GRUCell(3, 3), torch.randn(5, 3), ["weight_norm"])
    assert "no linear or convolution layer" in str(result)


def test_a_report_holds_values_and_spectra():
    network = build_mlp(4, NetworkSpec((8, 8)))
    result = report(network, torch.randn(9, 4), reference=dict(network.named_parameters()))
    assert result.values["weight_distance"][""] == 0
    assert result.values["layer_jacobian_spectrum"]["linear1"].ndim == 1
    assert "0, Linear" in result.layers["linear1"]
