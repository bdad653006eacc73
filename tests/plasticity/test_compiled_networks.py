"""Compiled networks and parts of networks: measured as the same network is that nobody has compiled."""

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from isorl.plasticity import METRICS, diagnose, jacobian_penalty, parameter_groups, roles, snapshot

COMPILED = {
    "whole": lambda network: torch.compile(network, backend="eager"),
    "in place": lambda network: network.compile(backend="eager") or network,
    "body": lambda network: nn.Sequential(torch.compile(network[0], backend="eager"), network[1]),
    "head": lambda network: nn.Sequential(network[0], torch.compile(network[1], backend="eager")),
}


def two_parts():
    torch.manual_seed(0)
    return nn.Sequential(nn.Sequential(nn.Linear(4, 6), nn.ReLU()), nn.Linear(6, 2))


def moved(network):
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    return network


@pytest.mark.parametrize("kind", COMPILED)
@pytest.mark.parametrize("start_is_compiled", [False, True])
def test_figures_are_those_of_the_network_itself(kind, start_is_compiled):
    x, plain, compiled = torch.randn(9, 4), two_parts(), COMPILED[kind](two_parts())
    start = snapshot({"net": compiled if start_is_compiled else plain})
    moved(plain), moved(compiled)
    with torch.no_grad():
        y = compiled(x)  # it is traced before, and used afterwards as it was
    expected = diagnose({"net": plain}, x, list(METRICS), start, previous=start)
    found = diagnose({"net": compiled}, x, list(METRICS), start, previous=start)
    assert {"plasticity/weight_distance/net", "plasticity/churn_of_outputs/net"} <= found.keys()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(torch.as_tensor(found[key]), torch.as_tensor(value)), key
    assert torch.equal(jacobian_penalty(compiled, x), jacobian_penalty(plain, x))
    traced = counters["stats"]["unique_graphs"]
    with torch.no_grad():
        assert torch.equal(compiled(x), y)
    assert counters["stats"]["unique_graphs"] == traced


@pytest.mark.parametrize("kind", COMPILED)
def test_heads_have_the_names_that_they_have_without(kind):
    network = COMPILED[kind](two_parts())
    assert [group["role"] for group in parameter_groups(network, ["1"])] == ["hidden", "head", "bias"]
    assert list(roles(network)) == [name for name, _ in network.named_parameters()]
    with pytest.raises(ValueError, match=r"unknown head \(a submodule\) '2'"):
        parameter_groups(network, ["2"])
