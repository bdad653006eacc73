"""Curvature against full matrices, churn by hand, and figures that a measurement cannot tell exactly."""

import numpy as np
import pytest
import torch
from torch import nn

from isorl.plasticity import METRICS, NetworkSpec, build_mlp, diagnose, report, snapshot
from isorl.plasticity.diagnostics import hessian
from isorl.plasticity.diagnostics.record import NotMeasurableError
from isorl.plasticity.diagnostics.report import shown
from isorl.plasticity.diagnostics.spectra import condition, is_at_cap
from tests.plasticity.test_metrics import hessian_of_a_new_task


def a_network(width, activation="tanh"):
    return nn.Sequential(build_mlp(6, NetworkSpec((width, width), activation)), nn.Linear(width, 3))


@pytest.mark.parametrize("width", [8, 16])  # formed, and by Lanczos
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_extremes_and_rank_are_those_of_the_full_matrix(width, activation):
    network, x = a_network(width, activation), torch.randn(20, 6)
    assert (sum(p.numel() for p in network.parameters()) > hessian.FEW) == (width == 16)
    H = hessian_of_a_new_task(network, x).double()
    values = torch.linalg.eigvalsh((H + H.T) / 2)
    keys = ("hessian_max", "hessian_min", "hessian_epsilon_rank")
    found = [diagnose({"q": network}, x, keys)[f"plasticity/{key}/q"] for key in keys]
    size = values.abs()
    rank = int((size > hessian.EPSILON * size.max()).sum())
    assert found[0] == pytest.approx(values[-1].item(), rel=1e-2)
    assert found[1] == pytest.approx(values[0].item(), rel=1e-2)
    assert abs(found[2] - min(rank, hessian.RANK_CAP)) <= 1


def test_lanczos_counts_a_low_rank(monkeypatch):
    """A linear network with one output has the Gauss-Newton matrix of its inputs alone."""
    monkeypatch.setattr(hessian, "FEW", 0)
    network = nn.Linear(300, 1, bias=False)
    x = torch.zeros(8, 300)
    x[:, :5] = torch.randn(8, 5)
    values = np.linalg.eigvalsh(2 / 8 * (x.T @ x).numpy())
    found = diagnose({"q": network}, x, ["hessian_epsilon_rank", "hessian_max"])
    assert found["plasticity/hessian_epsilon_rank/q"] == 5
    assert found["plasticity/hessian_max/q"] == pytest.approx(values[-1], rel=1e-3)


def test_the_network_is_left_as_it_was():
    network, x = a_network(16).train(), torch.randn(20, 6)
    network[1].weight.requires_grad_(False)
    before = {name: p.clone() for name, p in network.named_parameters()}
    stream = torch.random.get_rng_state()
    diagnose({"q": network}, x, [key for key in METRICS if key.startswith("hessian")])
    assert torch.equal(torch.random.get_rng_state(), stream)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in network.named_parameters())
    assert not network[1].weight.requires_grad
    assert network.training


def test_a_large_network_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(hessian, "MAX_PARAMETERS", 10)
    with pytest.raises(NotMeasurableError, match="are too many for Lanczos; 10 are not"):
        hessian.eigenvalues(a_network(8), torch.randn(4, 6), "BE", 2)
    with pytest.warns(RuntimeWarning, match="could not measure plasticity/hessian_max/q"):
        assert np.isnan(
            diagnose({"q": a_network(8)}, torch.randn(4, 6), ["hessian_max"])["plasticity/hessian_max/q"]
        )


def test_weights_that_are_not_finite_give_nan():
    network = a_network(16)
    with torch.no_grad():
        network[1].weight[0, 0] = torch.nan
    with pytest.warns(RuntimeWarning, match="could not measure"):
        values = diagnose({"q": network}, torch.randn(4, 6), ["hessian_max", "hessian_epsilon_rank"])
    assert all(np.isnan(value) for value in values.values())


def test_churn_by_hand():
    """Outputs (x, -x) become (x, -x + 1.5): the largest changes for 0 < x < 0.75, and outputs move by 0 and 1.5."""
    network = nn.Sequential(nn.Linear(1, 2))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        network[0].bias.copy_(torch.tensor([0.0, 1.5]))
    previous = snapshot({"q": network})
    previous["q/0.bias"] = torch.zeros(2)
    x = torch.tensor([[-1.0], [0.5], [0.7], [2.0]])
    values = diagnose({"q": network}, x, ["churn_of_actions", "churn_of_outputs"], previous=previous)
    assert values == pytest.approx(
        {"plasticity/churn_of_actions/q": 0.5, "plasticity/churn_of_outputs/q": 0.75}
    )
    assert diagnose({"q": network}, x, ["churn_of_actions", "churn_of_outputs"]) == {}


def test_churn_is_of_the_buffers_of_then_too():
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.randn(32, 4)
    before, previous = network(x), snapshot({"q": network})
    kept = {name: value.clone() for name, value in previous.items()}
    network.train()(5 * torch.randn(64, 4) + 3)
    now = network.eval()(x)
    found = diagnose({"q": network}, x, ["churn_of_actions", "churn_of_outputs"], previous=previous)
    assert found["plasticity/churn_of_outputs/q"] == pytest.approx((now - before).abs().mean().item())
    share = (now.argmax(1) != before.argmax(1)).float().mean().item()
    assert found["plasticity/churn_of_actions/q"] == share > 0
    assert all(torch.equal(value, kept[name]) for name, value in previous.items())
    without = {name: value for name, value in previous.items() if "running_mean" not in name}
    with pytest.warns(RuntimeWarning, match=r"the earlier values have no 1\.running_mean"):
        found = diagnose({"q": network}, x, ["churn_of_outputs"], previous=without)
    assert np.isnan(found["plasticity/churn_of_outputs/q"])


def test_a_network_that_writes_to_its_buffers_leaves_the_snapshot_alone():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x):
            self.seen += len(x)
            return 1 * x

    network = nn.Sequential(Counts(), nn.Linear(2, 2))
    previous = snapshot({"q": network})
    diagnose({"q": network}, torch.randn(3, 2), ["churn_of_outputs"], previous=previous)
    assert previous["q/0.seen"] == 0


@pytest.mark.parametrize("change", ["lacks one", "another shape", "parametrized", "other names"])
def test_a_distance_is_from_all_of_the_network_or_none(change):
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    start = {name.removeprefix("net/"): value for name, value in snapshot({"net": network}).items()}
    if change == "lacks one":
        del start["0.weight"]
    elif change == "another shape":
        start["0.weight"] = torch.zeros(1, 2)  # which could be broadcast
    elif change == "parametrized":
        nn.utils.parametrizations.weight_norm(network[0])
    else:
        start = snapshot({"module": network})
    with pytest.warns(RuntimeWarning, match=r"the earlier values have no 0\.(weight|parametrizations)"):
        found = report(network, torch.randn(4, 2), ["weight_distance"], start).values
    assert np.isnan(found["weight_distance"][""])


@pytest.mark.parametrize("metric", ["hessian_max", "trainability_error"])
def test_a_network_of_several_outputs_is_refused_by_what_trains_it_too(metric):
    with pytest.raises(ValueError, match="returns one tensor, got tuple"):
        report(nn.GRU(3, 3), torch.zeros(2, 4, 3), [metric])


def test_attention_has_a_curvature():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 1)

        def forward(self, x):
            return self.head(self.attention(x, x, x)[0].mean(1))

    network, x = Attends().double(), torch.randn(5, 3, 4, dtype=torch.double)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        H = hessian_of_a_new_task(network, x).double()
    values = torch.linalg.eigvalsh((H + H.T) / 2)
    found = hessian.eigenvalues(network, x, "BE", 2)
    torch.testing.assert_close(found, values[[0, -1]], rtol=1e-2, atol=1e-4)


def test_scores_of_gradients_by_hand():
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    assert diagnose({"q": network}, torch.ones(1, 2), ["small_gradient_units", "gradient_spectrum"]) == {}
    network[0].weight.grad = torch.tensor([[3.0, 0.0], [0.0, 4.0], [1e-4, 1e-4]])
    network[2].weight.grad = torch.tensor([[5.0, 0.0, 0.0]])
    values = diagnose({"q": network}, torch.ones(1, 2), ["small_gradient_units", "gradient_spectrum"])
    assert values["plasticity/small_gradient_units/q"] == pytest.approx(1 / 3)
    assert values["plasticity/small_gradient_units/q/linear2"] == 0
    assert values["plasticity/gradient_spectrum/q"].tolist() == pytest.approx([3, 4], rel=1e-4)
    assert values["plasticity/gradient_spectrum/q/linear2"].tolist() == pytest.approx([5])


def test_units_of_a_layer_without_any_gradient_all_count_as_small():
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    for layer in (network[0], network[2]):
        layer.weight.grad = torch.zeros_like(layer.weight)
    values = diagnose({"q": network}, torch.ones(1, 2), ["small_gradient_units"])
    assert values["plasticity/small_gradient_units/q"] == 1


def test_a_condition_number_at_the_cap_is_known_as_one():
    for n in (1, 7, 64, 256):
        singular = torch.cat([torch.zeros(1), torch.rand(n - 1) + 1]).double()
        if n > 1:
            assert is_at_cap(float(condition(singular)))
    plain = (torch.rand(1000, 5, dtype=torch.double) + 0.01).sort().values
    assert not any(is_at_cap(float(condition(values))) for values in plain)
    assert not is_at_cap(float("nan"))
    assert not is_at_cap(float("inf"))


def test_figures_at_a_cap_are_shown_as_bounds():
    network, twice = nn.Linear(2, 1), torch.ones(4, 2)
    assert "at least " in str(report(network, twice, ["ntk_condition"]))
    assert "at least" not in str(report(network, torch.tensor([[1.0, 0.0], [0.0, 1.0]]), ["ntk_condition"]))
    narrow = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 3))  # d f / d x has rank 2 of 3
    text = str(report(narrow, torch.randn(5, 4), ["input_jacobian_condition"]))
    assert f"at least {1 / (3 * torch.finfo(torch.float32).eps):.4g}" in text
    assert shown("hessian_epsilon_rank", float(hessian.RANK_CAP)) == f"at least {hessian.RANK_CAP}"
    assert shown("hessian_epsilon_rank", 3.0) == "3"
