"""What every registered method must do, on PPO and DQN, MLP and CNN: being registered is enough to be tested."""

import copy
import dataclasses
import functools
import io
import math

import pytest
import torch

from isorl.plasticity.methods import METHODS, PeriodicMethod
from tests.agents.methods.conftest import (
    NEEDS,
    build,
    functions,
    needs,
    parameters,
    switch,
    updates,
    with_method,
)


@functools.cache
def _plain(agent_name, body, name):
    return functions(lived(build(agent_name, body, {}, **needs(name))))


def plain(agent_name, body, name):
    """The functions of an agent without methods, but with what the method `name` needs, after the same life."""
    return _plain(agent_name, body, name if name in NEEDS else "")


def lived(agent):
    """Data, updates, a task switch, updates."""
    agent.learn(32)
    updates(agent)
    switch(agent)
    updates(agent)
    return agent


@pytest.fixture(params=list(METHODS))
def name(request):
    return request.param


def test_it_changes_learning_and_stays_finite(name, agent_name, body):
    changed = functions(lived(with_method(agent_name, body, name)))
    assert all(torch.isfinite(output).all() for output in changed.values())
    for network, output in plain(agent_name, body, name).items():
        assert not torch.allclose(changed[network], output, rtol=0, atol=1e-7), network


def test_what_it_trains_moves_and_what_it_freezes_does_not(name, agent_name, body):
    agent = with_method(agent_name, body, name)
    agent.learn(32)
    switch(agent)
    before = {id(p): p.detach().clone() for p in agent.policy.parameters()}
    updates(agent)
    online = [p for p_name, p in agent.policy.named_parameters() if "target" not in p_name]
    trained = {id(p) for group in agent.policy.optimizer.param_groups for p in group["params"]}
    for parameter in online:
        moved = not torch.equal(parameter, before[id(parameter)])
        assert moved == parameter.requires_grad
        assert id(parameter) in trained or not parameter.requires_grad
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()


def test_a_resumed_agent_goes_on_exactly(name, agent_name, body):
    agent = with_method(agent_name, body, name)
    agent.learn(32)
    switch(agent)
    updates(agent)
    assert agent.methods.forgotten() == []
    resumed = with_method(agent_name, body, name, seed=4)
    load(resumed, save(agent))
    for one in (agent, resumed):
        one._current_progress_remaining = 1.0
        one.set_logger(agent.logger)
        for storage in ("rollout_buffer", "replay_buffer", "_answered"):
            if hasattr(agent, storage):
                setattr(one, storage, copy.deepcopy(getattr(agent, storage)))
        updates(one, seed=1)
        switch(one)
        updates(one, seed=2)
    ours, theirs = parameters(resumed), parameters(agent)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.equal(ours[key], value) if isinstance(value, torch.Tensor) else ours[key] == value, key


def save(agent):
    """The bytes of a file of tensors and plain values."""
    state = {
        "policy": agent.policy.state_dict(),
        "optimizer": agent.policy.optimizer.state_dict(),
        "methods": agent.methods.state_dict(),
        "random": agent.learner.generator.get_state(),
    }
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def load(agent, content):
    state = torch.load(io.BytesIO(content), weights_only=True)
    agent.policy.load_state_dict(state["policy"])
    agent.policy.optimizer.load_state_dict(state["optimizer"])
    agent.methods.load_state_dict(state["methods"])
    agent.learner.generator.set_state(state["random"])


WAITS = {
    "redo": {"every": 3, "tau": 0.9},
    "continual_backprop": {"maturity": 1, "replacement_rate": 0.05},
    "regrama": {"every": 3, "tau": 0.9},
    "cpr": {"every": 3},
    "hare_and_tortoise": {"every": 3},
    "self_normalised_resets": {"every": 3},
    "plasticity_injection": {"at_update": 3},
    "adaptive_isometry": {"every": 2, "index": "gram_deviation"},
    **{name: {"every": 3} for name, method in METHODS.items() if issubclass(method, PeriodicMethod)},
}
"""Options with which a method waits for the third update, self-normalised resets for the 45th."""


def life(agent, count):
    """The functions of a classifier after so many updates."""
    agent.learn(8)  # makes one
    for _ in range(count - 1):
        agent.train()
    return functions(agent)["classifier"]


@pytest.mark.parametrize("name", WAITS)
def test_before_its_first_effect_a_method_does_nothing(name):
    agent = with_method("classifier", "mlp", name, **WAITS[name])
    first = agent.methods.by_name[name].first_effect().update
    assert list(agent.methods.idle(first - 1, 9).values()) == [
        f"Method '{name}' does nothing in this run: it first acts at update {first}, of {first - 1} planned ones."
    ]
    assert list(agent.methods.idle(first, 0).values()) == []
    plain_one = build("classifier", "mlp", {}, **needs(name))
    assert torch.equal(life(agent, first - 1), life(plain_one, first - 1))


# of these it is the earliest possible one: here no unit falls silent, and no index declines
@pytest.mark.parametrize("name", sorted(set(WAITS) - {"self_normalised_resets", "adaptive_isometry"}))
def test_at_its_first_effect_a_method_does_something(name):
    agent = with_method("classifier", "mlp", name, **WAITS[name])
    first = agent.methods.by_name[name].first_effect().update
    plain_one = build("classifier", "mlp", {}, **needs(name))
    assert not torch.equal(life(agent, first), life(plain_one, first))


WAIT_FOR_A_SWITCH = [name for name, method in METHODS.items() if issubclass(method, PeriodicMethod)]
WAIT_FOR_A_SWITCH += ["ewc", "plasticity_injection"]


def test_methods_say_whether_they_wait_for_a_switch(name, agent_name):
    methods = with_method(agent_name, "mlp", name).methods
    first = methods.by_name[name].first_effect()
    assert first.switch == (1 if name in WAIT_FOR_A_SWITCH else 0)
    assert list(methods.idle(max(int(first.update), 1), first.switch).values()) == []


@pytest.mark.parametrize("name", WAIT_FOR_A_SWITCH)
def test_what_waits_for_a_switch_does_nothing_before_it(name, agent_name):
    agent = with_method(agent_name, "mlp", name)
    assert list(agent.methods.idle(10**9, 0).values()) == [
        f"Method '{name}' does nothing in this run: it first acts at task switch 1, of 0."
    ]
    assert list(agent.methods.idle(1, 1).values()) == []

    def before_any_switch(agent):  # right after it was built: agents draw from torch's own stream
        agent.learn(32)
        updates(agent)
        return functions(agent)

    plain = before_any_switch(build(agent_name, "mlp", {}))
    for network, output in before_any_switch(with_method(agent_name, "mlp", name)).items():
        assert torch.equal(plain[network], output), network


STRENGTHS = [n for n, method in METHODS.items() if "strength" in [f.name for f in dataclasses.fields(method)]]
OFF = {
    **{name: {"strength": 0.0} for name in STRENGTHS},
    "l2_er": {"weight_decay": 0.0, "rank_rate": 0.0},
    "cpr": {"rate": 0.0},
    "hare_and_tortoise": {"momentum": 0.0, "every": 1},
    "weight_clipping": {"scale": math.inf},
}
"""Options with which a method is there and does nothing."""


@pytest.mark.parametrize("name", OFF)
def test_turned_off_it_is_plain_bit_for_bit(name, agent_name):
    off = functions(lived(with_method(agent_name, "mlp", name, **OFF[name])))
    for network, output in plain(agent_name, "mlp", name).items():
        assert torch.equal(off[network], output)


def test_a_method_leaves_the_agents_random_stream_alone(name):
    def stream_after_a_switch_and_updates(agent):
        agent.learn(32)
        torch.manual_seed(0)
        switch(agent)
        updates(agent)
        return torch.random.get_rng_state()

    with_it = stream_after_a_switch_and_updates(with_method("ppo", "mlp", name))
    assert torch.equal(with_it, stream_after_a_switch_and_updates(build("ppo", "mlp", {}, **needs(name))))
