"""With every mechanism off, our agents are stable-baselines3's, bit for bit, on the same seed."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv

from isorl.agents import ContinualDQN, ContinualPPO
from isorl.plasticity import AdamO, NetworkSpec

PPO_ARGUMENTS = dict(n_steps=32, batch_size=32, n_epochs=2, seed=3, device="cpu")
DQN_ARGUMENTS = dict(learning_starts=32, buffer_size=500, target_update_interval=50, seed=3, device="cpu")


class Pictures(gymnasium.Env):
    """Random 36x36 images whose mean decides which of three actions pays."""

    observation_space = gymnasium.spaces.Box(0, 255, (4, 36, 36), np.uint8)
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
        return self.np_random.integers(0, 80 * (self._best + 1), (4, 36, 36), dtype=np.uint8)


def cartpole(n_envs):
    return make_vec_env("CartPole-v1", n_envs, seed=3)


def pendulum(n_envs):
    return make_vec_env("Pendulum-v1", n_envs, seed=3)


def pictures(n_envs):
    return make_vec_env(Pictures, n_envs, seed=3)


class Pays(gymnasium.Env):
    """A walk that pays for the sum of the actions, which may be of any space."""

    observation_space = spaces.Box(-10, 10, (3,), np.float32)

    def __init__(self, action_space):
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._left, self._x = 10, np.zeros(3, np.float32)
        return self._x, {}

    def step(self, action):
        assert self.action_space.contains(action)
        self._x = np.clip(self._x + self.np_random.normal(size=3), -10, 10).astype(np.float32)
        self._left -= 1
        return self._x, float(np.sum(action)), self._left == 0, False, {}


def assert_same_weights(ours, theirs):
    a, b = list(ours.policy.parameters()), list(theirs.policy.parameters())
    assert len(a) == len(b)
    for left, right in zip(a, b, strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("policy", ["sb3", "network"])
@pytest.mark.parametrize(("make", "name"), [(cartpole, "Mlp"), (pendulum, "Mlp"), (pictures, "Cnn")])
def test_ppo_equals_sb3(make, name, policy):
    theirs = PPO(f"{name}Policy", make(2), **PPO_ARGUMENTS).learn(256)
    spec = NetworkSpec(activation="relu" if name == "Cnn" else "tanh")
    chosen = f"{name}Policy" if policy == "sb3" else "NetworkPolicy"
    kwargs = {} if policy == "sb3" else {"policy_kwargs": {"network": spec}}
    ours = ContinualPPO(chosen, make(2), **PPO_ARGUMENTS, **kwargs).learn(256)
    assert_same_weights(ours, theirs)


@pytest.mark.parametrize(
    "space",
    [
        spaces.MultiBinary(3),
        spaces.MultiDiscrete([2, 3]),
        spaces.Box(-1, 1, (2,), np.float64),
        spaces.Box(-1, 1, (2,)),
    ],
    ids=str,
)
def test_ppo_equals_sb3_with_any_actions(space):
    theirs, ours = (
        kind("MlpPolicy", make_vec_env(lambda: Pays(space), 2, seed=3), **PPO_ARGUMENTS).learn(256)
        for kind in (PPO, ContinualPPO)
    )
    assert_same_weights(ours, theirs)


@pytest.mark.parametrize(
    "options", [{"target_kl": 1e-4}, {"clip_range_vf": 0.1}, {"normalize_advantage": False}]
)
def test_ppo_equals_sb3_with_options(options):
    theirs = PPO("MlpPolicy", cartpole(2), **PPO_ARGUMENTS, **options).learn(256)
    ours = ContinualPPO("MlpPolicy", cartpole(2), **PPO_ARGUMENTS, **options).learn(256)
    assert_same_weights(ours, theirs)
    assert ours._n_updates == theirs._n_updates


@pytest.mark.parametrize("policy", ["sb3", "network"])
@pytest.mark.parametrize(("make", "name"), [(cartpole, "Mlp"), (pictures, "Cnn")])
@pytest.mark.parametrize("n_envs", [1, 2])
def test_dqn_equals_sb3(make, name, policy, n_envs):
    theirs = DQN(f"{name}Policy", make(n_envs), **DQN_ARGUMENTS).learn(256)
    chosen = f"{name}Policy" if policy == "sb3" else "NetworkPolicy"
    ours = ContinualDQN(chosen, make(n_envs), **DQN_ARGUMENTS).learn(256)
    assert_same_weights(ours, theirs)
    assert ours.exploration_rate == theirs.exploration_rate


@pytest.mark.parametrize("n_steps", [1, 3])
def test_dqn_n_step_replay_equals_sb3(n_steps):
    theirs = DQN("MlpPolicy", cartpole(1), n_steps=n_steps, **DQN_ARGUMENTS).learn(256)
    ours = ContinualDQN("MlpPolicy", cartpole(1), n_steps=n_steps, **DQN_ARGUMENTS).learn(256)
    assert_same_weights(ours, theirs)


def test_adamo_without_isometry_equals_sb3_with_adam():
    theirs = PPO("MlpPolicy", cartpole(2), **PPO_ARGUMENTS).learn(256)
    kwargs = {
        "network": NetworkSpec(activation="tanh"),
        "optimizer_class": AdamO,
        "optimizer_kwargs": {"eps": 1e-5, "iso_lambda": 0.0},
    }
    ours = ContinualPPO("NetworkPolicy", cartpole(2), policy_kwargs=kwargs, **PPO_ARGUMENTS).learn(256)
    assert_same_weights(ours, theirs)


@pytest.mark.parametrize("agent", [ContinualPPO, ContinualDQN])
def test_isometry_changes_the_weights(agent):
    arguments = PPO_ARGUMENTS if agent is ContinualPPO else DQN_ARGUMENTS

    def trained(iso_lambda):
        options = {"iso_lambda": iso_lambda, "iso_every": 1}
        kwargs = {"optimizer_class": AdamO, "optimizer_kwargs": options}
        return agent("NetworkPolicy", cartpole(1), policy_kwargs=kwargs, **arguments).learn(256)

    off, on = trained(0.0), trained(1.0)
    assert not all(
        torch.equal(a, b) for a, b in zip(off.policy.parameters(), on.policy.parameters(), strict=True)
    )


@pytest.mark.parametrize("agent", [ContinualPPO, ContinualDQN])
def test_save_load_predict(agent, tmp_path):
    arguments = PPO_ARGUMENTS if agent is ContinualPPO else DQN_ARGUMENTS
    kwargs = {"network": NetworkSpec(activation="maxmin", isometry="soft"), "optimizer_class": AdamO}
    saved = agent("NetworkPolicy", cartpole(1), policy_kwargs=kwargs, **arguments).learn(128)
    saved.save(tmp_path / "agent.zip")
    loaded = agent.load(tmp_path / "agent.zip", env=DummyVecEnv([lambda: gymnasium.make("CartPole-v1")]))
    observations = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    np.testing.assert_array_equal(
        saved.predict(observations, deterministic=True)[0],
        loaded.predict(observations, deterministic=True)[0],
    )
    loaded.learn(128)
