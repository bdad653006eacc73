"""Small agents with one method each, on vectors and on pictures, and what a test does to them."""

import copy
import dataclasses

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv

from isorl.agents.options import AGENTS, agent_arguments
from isorl.configs.schema import SwitchConfig
from isorl.plasticity import AdamO, NetworkSpec
from isorl.plasticity.methods import METHODS

ACTS_SOON = {
    "redo": {"every": 2, "tau": 0.9},
    "continual_backprop": {"maturity": 1, "replacement_rate": 0.1},
    "regrama": {"every": 2, "tau": 0.9},
    "cpr": {"every": 2, "rate": 0.5},
    "hare_and_tortoise": {"every": 2, "momentum": 0.9},
    "weight_clipping": {"scale": 0.5},
    "self_normalised_resets": {"prior": 2, "threshold": 0.9, "every": 1},
    "head_normalised": {"max_norm": 5e-3},
    "adaptive_isometry": {
        "index": "feature_effective_rank",
        **{"every": 1, "patience": 1, "decline": 1.05, "recovery": 1.0, "highest": 8.0},
    },
}
"""Options of methods whose defaults would not act within the few updates of a test."""

ADAMO = {"optimizer_class": AdamO, "optimizer_kwargs": {"iso_lambda": 1.0, "iso_every": 1}}
NEEDS = {"adaptive_isometry": {"policy_kwargs": ADAMO}}
"""Options of an agent without which a method is refused; the agent that it is compared with has them, too."""


def needs(name):
    """A copy of what NEEDS has for a method."""
    return copy.deepcopy(NEEDS.get(name, {}))


ROUNDS = {"trac": 20}
"""How often a test repeats its updates: TRAC's scale starts at 1e-8 and has to grow before weights move."""


class Pictures(gymnasium.Env):
    """Random 36x36 images whose brightness decides which of three actions pays."""

    observation_space = gymnasium.spaces.Box(0, 255, (2, 36, 36), np.uint8)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._left = 10
        return self._draw(), {}

    def step(self, action):
        self._left -= 1
        return self._draw(), float(action == self._best), self._left == 0, False, {}

    def _draw(self):
        self._best = int(self.np_random.integers(3))
        return self.np_random.integers(0, 80 * (self._best + 1), (2, 36, 36), dtype=np.uint8)


class Labelled(DummyVecEnv):
    """Any environment for the classifier: the right answer is always 1, so that gradients agree with each other."""

    labels = np.ones(8, dtype=np.int64)


SMALL = dict(n_steps=16, batch_size=16, n_epochs=2, learning_starts=8, buffer_size=200, learning_rate=1e-3)
"""Options of an agent that learns within a few steps, as far as it has them."""


def build(agent, body, methods, **options):
    """A registered agent on CartPole or Pictures, exact; `methods` are instances by name."""
    cls, schema = AGENTS[agent]
    copies, kind = (8, Labelled) if cls.LABELLED else (2, DummyVecEnv)
    env = make_vec_env("CartPole-v1" if body == "mlp" else Pictures, copies, seed=3, vec_env_cls=kind)
    spec = options.pop("network", NetworkSpec(widths=(16, 12), activation="relu"))
    known = {field.name for field in dataclasses.fields(schema)}
    small = {name: value for name, value in {**SMALL, "exact": True}.items() if name in known}
    return cls(
        "NetworkPolicy",
        env,
        policy_kwargs={"network": spec, **options.pop("policy_kwargs", {})},
        methods=methods,
        switch=SwitchConfig(replay="keep"),
        seed=options.pop("seed", 3),
        device=options.pop("device", "cpu"),
        **{**agent_arguments(schema(**small)), **options},
    )


def with_method(agent, body, name, seed=3, device="cpu", **options):
    """An agent with one method that acts soon."""
    if METHODS[name].requires:
        pytest.importorskip(METHODS[name].requires)
    method = METHODS[name](**{**ACTS_SOON.get(name, {}), **options})
    if method.needs_labels and not AGENTS[agent][0].LABELLED:
        with pytest.raises(ValueError, match=f"'{name}' learns from labels, which only agent=classifier"):
            build(agent, body, {name: method})
        pytest.skip("refused, as it should be: this agent has no labels")
    made = build(agent, body, {name: method}, seed=seed, device=device, **needs(name))
    made.rounds = ROUNDS.get(name, 1)
    return made


def updates(agent, seed=0):
    """A few updates on the data that the agent holds, the same for every agent that holds the same."""
    np.random.seed(seed)
    torch.manual_seed(seed)
    for _ in range(getattr(agent, "rounds", 1)):
        if hasattr(agent, "replay_buffer"):
            agent.train(4, 16)
        else:
            for _ in range(8 if agent.LABELLED else 1):
                agent.train()


def switch(agent):
    """What a task switch does to methods."""
    agent.methods.on_switch()


def parameters(agent):
    """Name -> value of all parameters and buffers of the policy."""
    return {name: copy.deepcopy(value) for name, value in agent.policy.state_dict().items()}


def some_inputs(agent):
    """Random observations, as the networks read them."""
    space = agent.observation_space
    rng = np.random.default_rng(0)
    shape = (8, *space.shape)
    x = rng.integers(0, 255, shape) if space.dtype == np.uint8 else rng.standard_normal(shape)
    return agent.policy.inputs(torch.as_tensor(x.astype(space.dtype)))


def functions(agent):
    """The outputs of all networks on random observations."""
    agent.policy.set_training_mode(False)
    inputs = some_inputs(agent)
    with torch.no_grad():
        return {name: network(inputs) for name, network in agent.policy.networks().items()}


@pytest.fixture(params=["mlp", "cnn"])
def body(request):
    return request.param


@pytest.fixture(params=list(AGENTS))
def agent_name(request):
    return request.param
