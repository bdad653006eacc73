"""The callback watches any SB3 algorithm and changes nothing."""

import ale_py
import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.logger import configure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from isorl.agents import ContinualPPO, PlasticityCallback
from isorl.agents.sb3 import networks_of

ALGORITHMS = {
    "ppo": (PPO, "CartPole-v1", {"n_steps": 64}, {"actor", "critic"}),
    "a2c": (A2C, "Pendulum-v1", {}, {"actor", "critic"}),
    "dqn": (DQN, "CartPole-v1", {"learning_starts": 50}, {"q"}),
    "sac": (SAC, "Pendulum-v1", {"learning_starts": 150}, {"actor", "critic0", "critic1"}),
    "td3": (TD3, "Pendulum-v1", {"learning_starts": 150}, {"actor", "critic0", "critic1"}),
    "ddpg": (DDPG, "Pendulum-v1", {"learning_starts": 150}, {"actor", "critic0"}),
    "ours": (ContinualPPO, "CartPole-v1", {"n_steps": 64}, {"actor", "critic"}),
}


@pytest.mark.parametrize(("algorithm", "env_id", "options", "networks"), ALGORITHMS.values(), ids=ALGORITHMS)
def test_callback_on_any_algorithm(tmp_path, algorithm, env_id, options, networks):
    def trained(callback):
        model = algorithm("MlpPolicy", gymnasium.make(env_id), seed=0, device="cpu", **options)
        model.set_logger(configure(str(tmp_path), ["tensorboard"]))
        return model.learn(200, callback=callback, log_interval=1)

    callback = PlasticityCallback(every=50)
    watched, plain = trained(callback), trained(None)
    for a, b in zip(watched.policy.parameters(), plain.policy.parameters(), strict=True):
        assert torch.equal(a, b)

    values = callback.measure()
    assert {key.split("/")[2] for key in values} == networks
    for network in networks:
        assert 0 <= values[f"plasticity/dormant_units/{network}"] <= 1
        assert values[f"plasticity/layer_jacobian_max/{network}"] > 0
        assert np.isfinite(values[f"plasticity/ntk_effective_rank/{network}"])


def test_keys_reach_tensorboard(tmp_path):
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=64, device="cpu", tensorboard_log=str(tmp_path))
    model.learn(256, callback=PlasticityCallback(every=64))
    tags = EventAccumulator(str(tmp_path / "PPO_1")).Reload().Tags()
    assert "plasticity/dormant_units/actor" in tags["scalars"]
    assert any(tag.startswith("plasticity/layer_jacobian_spectrum/") for tag in tags["histograms"])


def test_atari_policy():
    gymnasium.register_envs(ale_py)
    env = gymnasium.wrappers.FrameStackObservation(
        gymnasium.wrappers.AtariPreprocessing(gymnasium.make("ALE/Breakout-v5", frameskip=1)), 4
    )
    callback = PlasticityCallback(every=64, metrics=["dormant_units", "layer_jacobian_max"])
    PPO("CnnPolicy", env, n_steps=70, batch_size=70, n_epochs=1, device="cpu").learn(140, callback=callback)
    values = callback.measure()
    assert "plasticity/layer_jacobian_max/actor" in values


def test_mistakes_are_answered():
    with pytest.raises(ValueError, match="at least 1"):
        PlasticityCallback(every=0)
    model = PPO("MultiInputPolicy", DictEnv(), device="cpu")
    with pytest.raises(ValueError, match="Dict"):
        networks_of(model.policy)


class DictEnv(gymnasium.Env):
    observation_space = gymnasium.spaces.Dict({"x": gymnasium.spaces.Box(-1, 1, (2,))})
    action_space = gymnasium.spaces.Discrete(2)
