"""Mistakes found in published code, each a regression test (the numbers are those of the survey of peers)."""

import copy
import dataclasses

import pytest
import torch

from isorl.agents import ContinualPPO
from isorl.plasticity.methods import METHODS, PeriodicMethod
from isorl.plasticity.methods.recycling import Recycler
from isorl.plasticity.methods.shrink_and_perturb import ShrinkAndPerturb
from tests.agents.methods.conftest import (
    ACTS_SOON,
    build,
    functions,
    parameters,
    switch,
    updates,
    with_method,
)
from tests.agents.methods.test_contract import lived, load, save

ACTING_AT_SWITCHES = [name for name, method in METHODS.items() if issubclass(method, PeriodicMethod)]


@pytest.mark.parametrize("name", [*ACTING_AT_SWITCHES, "plasticity_injection"])
def test_1_what_a_method_puts_in_place_is_what_the_optimizer_trains(name, agent_name, body):
    agent = with_method(agent_name, body, name)
    agent.learn(32)
    switch(agent)
    before = parameters(agent)
    updates(agent)
    after = parameters(agent)
    online = [n for n, p in agent.policy.named_parameters() if "target" not in n and p.requires_grad]
    assert all(not torch.equal(before[n], after[n]) for n in online)


@pytest.mark.parametrize("name", [*ACTING_AT_SWITCHES, "plasticity_injection"])
def test_2_a_redrawn_network_and_its_target_are_the_same(name, body):
    agent = with_method("dqn", body, name)
    agent.learn(32)
    switch(agent)
    for ours, target in zip(agent.q_net.parameters(), agent.q_net_target.parameters(), strict=True):
        assert torch.equal(ours, target)


def test_2_methods_that_redraw_nothing_leave_the_target_alone():
    agent = with_method("dqn", "mlp", "l2_init")
    agent.learn(32)
    before = [p.detach().clone() for p in agent.q_net_target.parameters()]
    updates(agent)
    switch(agent)
    assert all(torch.equal(a, b) for a, b in zip(before, agent.q_net_target.parameters(), strict=True))


def test_2_spectral_norms_estimate_reaches_the_target():
    agent = with_method("dqn", "mlp", "spectral_norm")
    agent.target_update_interval = 1
    agent.learn(32)
    agent._on_step()
    for (name, ours), (_, target) in zip(
        agent.q_net.state_dict().items(), agent.q_net_target.state_dict().items(), strict=True
    ):
        assert torch.equal(ours, target), name
    assert any("running_u" in name for name in agent.q_net.state_dict())


@pytest.mark.parametrize("name", ["head_reset", "layer_reset", "full_reset"])
def test_3_reset_weights_keep_no_moments(name, agent_name):
    agent = with_method(agent_name, "mlp", name)
    agent.learn(32)
    updates(agent)
    before = parameters(agent)
    switch(agent)
    optimizer = agent.policy.optimizer
    for p_name, parameter in agent.policy.named_parameters():
        if "target" not in p_name and not torch.equal(parameter, before[p_name]):
            assert parameter not in optimizer.state, p_name


@pytest.mark.parametrize("body_name", ["mlp", "cnn"])
def test_4_actor_and_critic_are_both_treated(body_name):
    agent = build("ppo", body_name, {})
    layers = Recycler(agent.learner, "redo").layers
    read = {id(reader) for layer in layers for reader in layer.readers}
    assert {id(agent.policy.action_net), id(agent.policy.value_net)} <= read
    hidden = [m for m in agent.policy.modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))]
    assert len({id(layer.maker) for layer in layers}) == len({id(m) for m in hidden}) - 2


def test_5_projection_comes_with_its_norm_layers(agent_name, body):
    agent = with_method(agent_name, body, "normalise_and_project")
    norms = [m for m in agent.policy.modules() if isinstance(m, (torch.nn.LayerNorm, torch.nn.GroupNorm))]
    assert norms
    assert agent.policy.network.layer_norm


def test_6_shrink_and_perturb_draws_fresh_noise_every_time():
    agent = build("ppo", "mlp", {"s": ShrinkAndPerturb(shrink=1.0, noise=0.1)})
    values = [parameters(agent)["action_net.weight"]]
    for _ in range(2):
        switch(agent)
        values.append(parameters(agent)["action_net.weight"])
    first, second = values[1] - values[0], values[2] - values[1]
    assert not torch.allclose(first, second)
    assert abs(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]) < 0.8


@pytest.mark.parametrize("name", ["continual_backprop", "redo", "trac"])
def test_11_and_12_utilities_ages_and_references_survive_a_save(name):
    agent = with_method("ppo", "mlp", name)
    agent.learn(32)
    resumed = with_method("ppo", "mlp", name)
    load(resumed, save(agent))
    assert str(resumed.methods.state_dict()) == str(agent.methods.state_dict())
    ours, theirs = (str(a.policy.optimizer.state_dict()) for a in (resumed, agent))
    assert ours == theirs


ONCE_ALL_UNITS_ACT = {("adaptive_isometry", "recovery"), ("adaptive_isometry", "lowest")}
"""Options that mean something in a healthy network alone: test_adaptive_isometry.py."""
OPTIONS = [(name, f.name) for name, method in METHODS.items() for f in dataclasses.fields(method)]
OPTIONS = [option for option in OPTIONS if option not in ONCE_ALL_UNITS_ACT]
OPTIONS = [option for option in OPTIONS if option[1] != "rank_drop"]  # with `every` alone: test_rivals.py
OTHERWISE = {
    ("redo", "tau"): 0.5,
    ("gram", "target"): 1.0,
    ("jacobian", "samples"): 8,
    ("reperturbation", "fraction"): 0.5,
    ("adaptive_isometry", "index"): "ntk_index",
    ("adaptive_isometry", "samples"): 4,
    ("adaptive_isometry", "factor"): 3.0,
    ("adaptive_isometry", "decline"): 2.0,
    ("self_normalised_resets", "threshold"): 1e-9,
    ("self_normalised_resets", "prior"): 100,
}
"""Where halving an option, or adding one to it, means nothing within the few updates of a test."""


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_13_every_option_does_something(name, option):
    value = getattr(METHODS[name](**ACTS_SOON.get(name, {})), option)
    changed = OTHERWISE[name, option] if (name, option) in OTHERWISE else _another(value)
    outcomes = []
    for options in ({}, {option: changed}):
        agent = lived(with_method("dqn", "mlp", name, **options))
        for _ in range(3):
            updates(agent)
        outcomes.append(functions(agent)["q"])
    assert not torch.equal(*outcomes)


def _another(value):
    if isinstance(value, bool):
        return not value
    return value / 2 if isinstance(value, float) else value + 1


def test_a_policy_of_sb3_is_refused_rather_than_left_untreated():
    with pytest.raises(ValueError, match="NetworkPolicy"):
        ContinualPPO("MlpPolicy", "CartPole-v1", methods={"l2": METHODS["l2"]()})


def test_full_reset_redraws_the_spread_of_gaussian_actions():
    agent = ContinualPPO("NetworkPolicy", "Pendulum-v1", methods={"f": METHODS["head_reset"]()}, device="cpu")
    with torch.no_grad():
        agent.policy.log_std.fill_(-3)
    switch(agent)
    assert (agent.policy.log_std == 0).all()


def test_a_head_is_redrawn_with_its_own_small_gain():
    agent = with_method("ppo", "mlp", "head_reset")
    with torch.no_grad():
        agent.policy.action_net.weight.fill_(5)
    body = copy.deepcopy(agent.policy.mlp_extractor.state_dict())
    switch(agent)
    torch.testing.assert_close(torch.linalg.svdvals(agent.policy.action_net.weight), torch.full((2,), 0.01))
    assert all(torch.equal(v, body[k]) for k, v in agent.policy.mlp_extractor.state_dict().items())
