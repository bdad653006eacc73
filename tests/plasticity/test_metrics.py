"""Values by hand for every metric. A metric without a case here fails the last test."""

import math

import pytest
import torch
from torch import nn

from isorl.plasticity import METRICS, diagnose, snapshot
from isorl.plasticity.diagnostics import fit_random_targets
from isorl.plasticity.diagnostics.units import redo_score, zero_rate


def two_layers():
    """W1 = diag(2, 1, 1), W2 = (3, 4, 0): units are x1, x2, x3 where positive, the last one killed by its bias."""
    network = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1))
    with torch.no_grad():
        network[0].weight.copy_(torch.diag(torch.tensor([2.0, 1.0, 1.0])))
        network[0].bias.copy_(torch.tensor([0.0, 0.0, -10.0]))
        network[2].weight.copy_(torch.tensor([[3.0, 4.0, 0.0]]))
        network[2].bias.zero_()
    return network


BATCH = torch.tensor([[1.0, 1.0, 1.0], [1.0, 3.0, 0.0]])
# h = (2, 1, 0), (2, 3, 0); Phi^T Phi of the two rows: [[5, 7], [7, 13]]
PHI = sorted(math.sqrt(9 + sign * math.sqrt(65)) for sign in (-1, 1))
# K[n, m] = 1 + h_n h_m for the head and its bias, (3, 4)^2 = 25 times (x_n x_m + 1) below, less dead unit
K = [[1 + 5 + 25 * 4, 1 + 7 + 25 * 5], [1 + 7 + 25 * 5, 1 + 13 + 25 * 11]]
MEAN, ROOT = (K[0][0] + K[1][1]) / 2, math.hypot((K[0][0] - K[1][1]) / 2, K[0][1])
LAMBDA = (MEAN - ROOT, MEAN + ROOT)


def hessian_of_a_new_task(network, batch):
    """H in full, by torch.func: the squared error to f(x) + N(0, 1)."""
    theta = {name: p.detach() for name, p in network.named_parameters()}
    f = network(batch).detach()
    target = f + torch.randn(f.shape, generator=torch.Generator().manual_seed(0))

    def loss(vector):
        parts = vector.split([p.numel() for p in theta.values()])
        given = {name: part.view(p.shape) for (name, p), part in zip(theta.items(), parts, strict=True)}
        return (torch.func.functional_call(network, given, (batch,)) - target).square().mean()

    return torch.func.hessian(loss)(torch.cat([p.flatten() for p in theta.values()]))


CURVATURES = torch.linalg.eigvalsh(hessian_of_a_new_task(two_layers(), BATCH)).tolist()


def entropy_rank(values):
    return math.exp(-sum(v / sum(values) * math.log(v / sum(values)) for v in values))


NETWORK = {
    "dormant_units": 1 / 3,
    "dormant_units_redo": 1 / 3,
    "layer_jacobian_max": 2,  # the head, of weight (3, 4), is pooled nowhere
    "layer_jacobian_min": 0,
    "layer_jacobian_mean": 1,  # (0, 1, 2)
    "layer_jacobian_error": (1 + 0 + 1) / 3,
    "gram_deviation": (9 + 0 + 0) / 3,
    "gram_anisotropy": math.sqrt(2) / 2,  # (4, 1, 1): std sqrt 2, mean 2
    "weight_stable_rank": 6 / 4,
    "weight_effective_rank": entropy_rank([2, 1, 1]),
    "input_jacobian_max": math.hypot(6, 4),
    "input_jacobian_condition": 1,
    "feature_srank": 2,
    "feature_effective_rank": entropy_rank(PHI),
    "feature_stable_rank": 18 / PHI[1] ** 2,
    "feature_norm": (math.sqrt(5) + math.sqrt(13)) / 2,
    "weight_norm": math.sqrt(4 + 1 + 1 + 100 + 9 + 16),
    "weight_distance": 2.0,
    "gradient_norm": math.sqrt(2 + 9 + 16),
    "ntk_condition": LAMBDA[1] / LAMBDA[0],
    "ntk_effective_rank": entropy_rank(LAMBDA),
    "ntk_index": ROOT / MEAN,
    "ntk_trace": MEAN,
    "gradient_effective_rank": entropy_rank([3, 4]),
    "small_gradient_units": 1 / 3,
    "churn_of_outputs": (3 * 1 + 3 * 3) / 2,  # the head's second weight was 1, not 4, and h_2 is 1, 3
    "hessian_max": max(CURVATURES),
    "hessian_min": min(CURVATURES),
    "hessian_epsilon_rank": sum(abs(v) > 0.01 * max(map(abs, CURVATURES)) for v in CURVATURES),
}
LAYER = {
    "dormant_units/net/linear1": 1 / 3,
    "layer_jacobian_max/net/linear1": 2,
    "layer_jacobian_max/net/linear3": None,
    "gram_deviation/net/linear2": 24**2,
    "weight_norm/net/linear2": 5,
    "weight_stable_rank/net/linear1": 1.5,
}
SPECTRA = {
    "layer_jacobian_spectrum/net": [0, 0, 1, 1, 2, 2],
    "layer_jacobian_spectrum/net/linear2": [5],
    "ntk_spectrum/net": LAMBDA,
    "gradient_spectrum/net": [0, 3, 4],
}


@pytest.fixture
def measured(device):
    network = two_layers().to(device)
    reference = snapshot({"net": network})
    reference["net/0.weight"] -= torch.tensor([[0.0, 2.0, 0.0]] + [[0.0] * 3] * 2, device=device)
    network[0].bias.grad = torch.tensor([1.0, 0.0, 1.0], device=device)
    network[0].weight.grad = torch.diag(torch.tensor([3.0, 4.0, 0.0], device=device))
    previous = snapshot({"net": network})
    previous["net/2.weight"] = torch.tensor([[3.0, 1.0, 0.0]], device=device)  # was 4: outputs moved by 3 h_2
    names = [name for name in METRICS if name != "trainability_error"]
    return diagnose({"net": network}, BATCH, names, reference, previous=previous)


@pytest.mark.parametrize("metric", NETWORK)
def test_of_a_network(measured, metric):
    assert measured[f"plasticity/{metric}/net"] == pytest.approx(NETWORK[metric], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("key", LAYER)
def test_of_a_layer(measured, key):
    if LAYER[key] is None:
        assert f"plasticity/{key}" not in measured
    else:
        assert measured[f"plasticity/{key}"] == pytest.approx(LAYER[key], rel=1e-5)


@pytest.mark.parametrize("key", SPECTRA)
def test_of_a_spectrum(measured, key):
    found = measured[f"plasticity/{key}"]
    assert found.device.type == "cpu"
    assert found.sort().values.tolist() == pytest.approx(sorted(SPECTRA[key]), rel=1e-4, abs=1e-6)


def test_every_metric_is_described_and_has_a_case():
    spectra = {key.split("/")[0] for key in SPECTRA}
    assert set(METRICS) == {
        *NETWORK,
        *spectra,
        "trainability_error",
        "churn_of_actions",
    }  # of several outputs
    for key, metric in METRICS.items():
        assert metric.key == key
        assert all((metric.formula, metric.range, metric.healthy, metric.cost, metric.paper))


def test_dormancy_by_two_definitions():
    h = torch.zeros(100, 4)
    h[:, 0] = 1.0
    h[:6, 1] = 1.0  # zero on 94 %: not dormant by rate
    h[:5, 2] = 0.01  # zero on 95 %, which is not more than 95 %; but too quiet for ReDo
    assert (zero_rate(h) > 0.95).tolist() == [False, False, False, True]
    assert (redo_score(h) <= 0.025).tolist() == [False, False, True, True]
    assert redo_score(torch.zeros(5, 2)).tolist() == [0, 0]


def test_a_channel_is_one_unit():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 1))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1))
        network[0].bias.zero_()
    values = diagnose({"net": network}, torch.ones(3, 1, 2, 2), ["dormant_units"])
    assert values["plasticity/dormant_units/net"] == 0.5


def test_trainability_is_worse_for_a_dead_network():
    alive = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
    x = torch.randn(16, 8)
    dead = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
    with torch.no_grad():
        dead[0].bias.fill_(-100)
    fresh = fit_random_targets(alive, x, lr=1e-2)
    assert fresh < 0.2
    assert fit_random_targets(dead, x, lr=1e-2) > 0.8
    assert torch.equal(fresh, fit_random_targets(alive, x, lr=1e-2))
