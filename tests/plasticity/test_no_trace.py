"""Measuring leaves networks as they were that write to themselves: in train(), in the forward pass, in hooks."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from isorl.plasticity import diagnose, jacobian_penalty


class LoRA(nn.Linear):
    """As loralib's: evaluation merges the low-rank part into the weight."""

    def __init__(self, inputs, outputs, rank=2):
        super().__init__(inputs, outputs)
        self.merged = False
        self.A, self.B = nn.Parameter(torch.randn(rank, inputs)), nn.Parameter(torch.randn(outputs, rank))
        self.weight.requires_grad = False

    def train(self, mode=True):
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * self.B @ self.A
            self.merged = not mode
        return self

    def forward(self, x):
        y = F.linear(x, self.weight, self.bias)
        return y if self.merged else y + x @ self.A.T @ self.B.T


def kernel(network, x):
    return diagnose({"n": network}, x, ["ntk_trace"], say_what_is_left_out=False)


@pytest.mark.parametrize("measure", [kernel, jacobian_penalty])
def test_an_adapter_is_not_merged(measure):
    network = nn.Sequential(LoRA(4, 6), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)).train()
    x, weight = torch.randn(8, 4), network[0].weight.clone()
    measure(network, x)
    assert torch.equal(network[0].weight, weight)
    assert all(module.training for module in network.modules())
    network(x).sum().backward()
    assert network[0].A.grad.any()


class Normaliser(nn.Module):
    """A running mean of the inputs, in evaluation too, in place; counts its calls and keeps its last outputs."""

    def __init__(self, graph):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("last", None)
        self.graph, self.calls, self.sum = graph, 0, torch.zeros(4)

    def forward(self, x):
        with torch.set_grad_enabled(self.graph and torch.is_grad_enabled()):
            self.mean += 0.1 * (x.mean(0) - self.mean)
            self.sum += self.mean
        self.calls += 1
        self.last = x - self.mean
        self.newest = self.last
        return self.last


@pytest.mark.parametrize("graph", [False, True], ids=["without", "with"])
def test_what_a_forward_pass_writes_is_taken_back(graph):
    network = nn.Sequential(Normaliser(graph), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    norm, x = network[0], torch.randn(70, 4)
    with torch.no_grad():
        network(x)
    del norm.newest
    mean, last, values = norm.mean, norm.last, [t.clone() for t in (norm.mean, norm.last, norm.sum)]
    diagnose({"n": network}, x + 5, ["feature_norm", "gram_deviation"])
    with pytest.warns(RuntimeWarning):  # a sample alone moves the mean otherwise
        diagnose({"n": network}, x + 5, ["ntk_trace"])
    assert norm.mean is mean
    assert norm.last is last
    for found, value in zip((norm.mean, norm.last, norm.sum), values, strict=True):
        assert torch.equal(found, value)
        assert not found.requires_grad
    assert norm.calls == 1
    assert not hasattr(norm, "newest")


def test_buffers_that_a_graph_of_the_user_holds_stay_of_use():
    network = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)).eval()
    x = torch.randn(8, 4)
    (expected,) = torch.autograd.grad(network(x).sum(), network[0].weight)
    loss = network(x).sum()
    diagnose({"n": network}, x)
    loss.backward()
    assert torch.equal(network[0].weight.grad, expected)


def test_backward_hooks_are_no_part_of_the_network():
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    x = torch.randn(8, 4)
    expected = diagnose({"n": network}, x)
    calls = []
    for module in network[1:]:
        module.register_full_backward_hook(lambda module, *_: calls.append(module))
    found = diagnose({"n": network}, x)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)
    assert not calls
    network(x).sum().backward()
    assert len(calls) == 2


def test_layers_that_the_first_pass_makes_keep_what_it_made():
    network = nn.Sequential(nn.LazyLinear(6), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(2)).eval()
    x = torch.randn(8, 4)
    values = diagnose({"n": network}, x, ["feature_norm"])
    features = network[:3](x).norm(dim=1).mean().item()
    assert values["plasticity/feature_norm/n"] == pytest.approx(features, rel=1e-5)
    assert (network[0].in_features, network[1].num_features) == (4, 6)
    assert network(x).shape == (8, 2)
