"""Networks of which a part answers, or several: figures are of what the output is computed from, or refused by name."""

import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from isorl.plasticity import diagnose
from tests.plasticity.test_odd_networks import Calls

METRICS = ["feature_norm", "gram_deviation", "dormant_units", "layer_jacobian_max", "ntk_trace"]


class Towers(nn.Module):
    """A body under two towers; the output is what `answer` makes of both."""

    def __init__(self, answer):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        self.pi = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
        self.v = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 1))
        nn.init.constant_(self.v[0].bias, -100.0)  # its units are dead
        self.answer = answer

    def forward(self, x):
        h = self.body(x)
        return self.answer(self.pi(h), self.v(h))


class Dueling(nn.Module):
    """Q = v + a - mean a, both of the same features (Wang et al. 2016)."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
        self.a, self.v = nn.Linear(6, 3), nn.Linear(6, 1)

    def forward(self, x):
        h = self.body(x)
        a = self.a(h)
        return self.v(h) + a - a.mean(1, keepdim=True)


def measured(network, x, metrics=METRICS):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = diagnose({"net": network}, x, metrics)
    return {key.removeprefix("plasticity/").removesuffix("/net"): value for key, value in values.items()}


def test_a_head_is_measured_by_what_it_is_computed_from_and_not_by_what_was_called_last():
    x = torch.randn(16, 4)
    towers = Towers(lambda pi, v: pi)
    alone = measured(nn.Sequential(*towers.body, *towers.pi), x)
    within = measured(towers, x)
    for key in METRICS:
        assert within[key] == pytest.approx(alone[key], rel=1e-6), key
    assert within["feature_norm"] > 0  # those of the tower that is called last are all 0
    other = measured(Towers(lambda pi, v: v), x)
    assert other["feature_norm"] == 0
    assert other["dormant_units"] > within["dormant_units"]


def test_what_the_output_does_not_depend_on_is_named():
    with pytest.warns(UserWarning, match=r"the output does not depend on v\.0, v\.2"):
        diagnose({"net": Towers(lambda pi, v: pi)}, torch.randn(8, 4), METRICS)


@pytest.mark.parametrize(
    "answer",
    [
        lambda pi, v: torch.cat([pi, v], 1),
        lambda pi, v: pi + v,
        lambda pi, v: torch.stack([pi, v + pi]).mean(0),
    ],
    ids=["beside each other", "summed", "stacked"],
)
def test_heads_of_different_features_have_none_in_common(answer):
    with pytest.warns(RuntimeWarning, match=r"several last layers that read different features: pi\.2, v\.2"):
        values = diagnose({"net": Towers(answer)}, torch.randn(8, 4), METRICS)
    assert math.isnan(values["plasticity/feature_norm/net"])
    assert values["plasticity/ntk_trace/net"] > 0


def test_heads_on_the_same_features_share_them():
    network, x = Dueling(), torch.randn(16, 4)
    found = measured(network, x)
    h = network.body(x).detach()
    assert found["feature_norm"] == pytest.approx(float(h.norm(dim=1).mean()), rel=1e-6)
    assert found["gram_deviation"] == pytest.approx(
        measured(nn.Sequential(*network.body, network.a), x)["gram_deviation"]
    )


def halves(self, x):
    out = x.new_zeros(len(x), 4)
    h = self.m[0](x)
    out[:, :2] = self.m[1](h)
    out[:, 2:].add_(self.m[2](h))
    return out


def by_a_weight(self, x):
    h = self.m[1](self.m[0](x))
    self.m[2](h)
    return h @ (2 * self.w).T


def through_numpy(self, x):
    h = self.m[1](self.m[0](x))
    return self.m[2](torch.from_numpy(h.detach().numpy() * 2))


ODD = {
    "written into parts": (Calls(halves, nn.Linear(4, 5), nn.Linear(5, 2), nn.Linear(5, 2)), ["m.1", "m.2"], []),
    "a weight of its own": (
        Calls(by_a_weight, nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2), w=(3, 5)), ["w"], ["m.2"]
    ),
    "numpy on the way": (Calls(through_numpy, nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), ["m.2"], []),
    "split and joined": (
        Calls(lambda self, x: torch.cat([self.m[1](p) for p in self.m[0](x).chunk(2, 1)], 1), nn.Linear(4, 6),
              nn.Linear(3, 2)), ["m.1"], []
    ),
    "functional": (Calls(lambda self, x: F.relu(self.m[0](x)).softmax(1), nn.Linear(4, 5)), ["m.0"], []),
}  # fmt: skip


@pytest.mark.parametrize(("network", "last", "idle"), ODD.values(), ids=ODD)
def test_heads_are_followed_through_whatever_torch_computes(network, last, idle):
    from isorl.plasticity.diagnostics.probe import Probe

    recorded = Probe(network, torch.randn(8, 4)).record
    assert recorded.last == last
    assert [layer.path for layer in recorded.layers if layer.is_idle] == idle
