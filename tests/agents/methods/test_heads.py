"""The options of `head=`: what each does to the heads alone, on PPO and DQN, MLP and CNN, ReLU and AEI networks."""

import pytest
import torch

from isorl.plasticity import AdamO, NetworkSpec
from isorl.plasticity.methods import METHODS
from isorl.plasticity.methods.structure import head
from tests.agents.methods.conftest import build, functions, switch, updates

AEI = {"network": NetworkSpec(widths=(16, 12), activation="maxmin", isometry="soft")}


def learned(agent_name, body, method, network, rounds=6, **options):
    """An agent after some updates, with an optimizer that moves its head far."""
    options = {
        "policy_kwargs": {"optimizer_class": AdamO},
        "learning_rate": 3e-2,
        **(AEI if network == "aei" else {}),
    }
    agent = build(agent_name, body, method, **options)
    agent.learn(32)
    for _ in range(rounds):
        updates(agent)
    return agent


def heads(agent):
    return {name: head(network) for name, network in agent.policy.networks().items()}


@pytest.fixture(params=["relu", "aei"])
def network(request):
    return request.param


def test_rows_of_a_normalised_head_stay_within_the_bound_that_free_ones_leave(agent_name, body, network):
    free, held = (
        learned(agent_name, body, method, network)
        for method in ({}, {"head_normalised": METHODS["head_normalised"](max_norm=0.3)})
    )
    assert max(layer.weight.norm(dim=1).max() for layer in heads(free).values()) > 0.4
    for layer in heads(held).values():
        assert layer.weight.norm(dim=1).max() <= 0.3 * (1 + 1e-6)
        assert torch.isfinite(layer.weight).all()


def test_a_bound_that_is_not_reached_changes_no_bit(agent_name):
    outputs = [
        functions(learned(agent_name, "mlp", method, "relu"))
        for method in ({}, {"head_normalised": METHODS["head_normalised"](max_norm=1e9)})
    ]
    assert all(torch.equal(outputs[0][name], outputs[1][name]) for name in outputs[0])


def test_a_row_of_zeros_stays_one(agent_name):
    agent = build(agent_name, "mlp", {"head_normalised": METHODS["head_normalised"]()})
    with torch.no_grad():
        for layer in heads(agent).values():
            layer.weight[0] = 0
    agent.methods.after_update(None)
    assert all((layer.weight[0] == 0).all() for layer in heads(agent).values())


def test_l2_init_of_heads_draws_them_back_and_leaves_bodies_to_the_task(agent_name, body, network):
    def distance(strength):
        method = METHODS["head_l2_init"](strength=strength)
        learned(agent_name, body, {"head_l2_init": method}, network)
        moved = [p - start for p, start in zip(method._parameters, method._initial, strict=True)]
        return sum(part.square().sum() for part in moved).sqrt()

    assert distance(100.0) < 0.5 * distance(0.0)
    method = METHODS["head_l2_init"](strength=1.0)
    agent = build(agent_name, body, {"head_l2_init": method})
    owned = {id(p) for layer in heads(agent).values() for p in layer.parameters()}
    assert {id(p) for p in method._parameters} == owned
    with torch.no_grad():
        for p in method._parameters:
            p.add_(1.0)
    method.loss(None).backward()
    for name, p in agent.policy.named_parameters():
        if "target" not in name:
            assert (p.grad is not None) == (id(p) in owned)
            assert p.grad is None or torch.allclose(p.grad, torch.full_like(p, 2.0))


def test_reset_draws_the_heads_alone_anew(agent_name, body, network):
    agent = learned(agent_name, body, {"head_reset": METHODS["head_reset"]()}, network)
    before = {name: p.detach().clone() for name, p in agent.policy.named_parameters()}
    owned = {id(p) for layer in heads(agent).values() for p in layer.parameters()}
    switch(agent)
    for name, p in agent.policy.named_parameters():
        if "target" not in name and name != "log_std":
            assert torch.equal(p, before[name]) == (id(p) not in owned), name
