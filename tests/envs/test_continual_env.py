"""A sequence as a Gymnasium environment is what isorl's own agents play, and keeps Gymnasium's rules."""

import importlib.util
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.utils.env_checker import check_env

from isorl.configs import SequenceConfig, TaskConfig, UserError
from isorl.envs import Sequence, SwitchingVecEnv
from isorl.envs.continual_env import sequence_of

TASKS = [TaskConfig("CartPole-v1", agent_steps=60), TaskConfig("Acrobot-v1", agent_steps=60)]
CONFIG = SequenceConfig("two", TASKS)


def vector(sequence=CONFIG, num_envs=3, seed=4, **options):
    return gymnasium.make_vec(
        "isorl/Stream-v0", num_envs=num_envs, vectorization_mode="vector_entry_point", sequence=sequence,
        seed=seed, **options,
    )  # fmt: skip


def test_check_env():
    check_env(gymnasium.make("isorl/Stream-v0", sequence="catch_permuted-smoke").unwrapped)


def test_the_vector_plays_what_our_agents_play():
    envs, ours = vector(), SwitchingVecEnv(Sequence.from_config(CONFIG, 4, 3), 3, 4)
    observations, info = envs.reset()
    np.testing.assert_array_equal(observations, ours.reset())
    rng = np.random.default_rng(0)
    switches = 0
    for _ in range(50):
        actions = rng.integers(3, size=3)
        before = ours.visit.number
        observations, rewards, terminated, truncated, info = envs.step(actions)
        expected, expected_rewards, done, infos = ours.step(actions)
        np.testing.assert_array_equal(observations, expected)
        np.testing.assert_array_equal(rewards, expected_rewards)
        np.testing.assert_array_equal(terminated | truncated, done)
        assert info["task"].tolist() == [ours.task.index] * 3
        assert info["visit"].tolist() == [ours.visit.number] * 3
        assert info["agent_steps"].tolist() == [ours.agent_steps] * 3
        for copy in np.flatnonzero(done):
            np.testing.assert_array_equal(info["final_obs"][copy], infos[copy]["terminal_observation"])
            assert truncated[copy] == infos[copy]["TimeLimit.truncated"]
            assert ("episode" in infos[copy]) == ("_episode" in info and info["_episode"][copy])
        if ours.visit.number > before:
            switches += 1
            assert truncated.any()
    assert switches == 1
    assert info["finished"].all()
    envs.close()


class Long(CartPoleEnv):
    """Calls an episode of more than ten steps a success."""

    def reset(self, *, seed=None, options=None):
        self.number = 0
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self.number += 1
        *given, info = super().step(action)
        return *given, {**info, "is_success": self.number > 10}


def test_success_is_told_of_the_episodes_that_ended():
    """Copy 0 always goes left, which fails within ten steps; copy 1 goes left and right in turn."""
    gymnasium.register("toy/Long-v0", Long)
    config = SequenceConfig("one", [TaskConfig("toy/Long-v0", agent_steps=1_000)])
    envs, one = vector(config, num_envs=2), gymnasium.make("isorl/Stream-v0", sequence=config, seed=4)
    envs.reset()
    one.reset()
    told = []
    for step in range(200):
        info = envs.step(np.array([0, step % 2]))[4]
        told += [
            info["is_success"][copy] == copy for copy in range(2) if info.get("_is_success", [0, 0])[copy]
        ]
        *_, terminated, truncated, info = one.step(step % 2)
        assert ("is_success" in info) == terminated
        if terminated or truncated:
            told.append(info["is_success"])
            one.reset()
    assert len(told) > 20
    assert all(told)


def test_one_copy_ends_its_episode_at_a_switch_and_goes_on_in_the_next_task():
    env = gymnasium.make("isorl/Stream-v0", sequence=CONFIG, seed=1)
    observation, info = env.reset()
    seen = []
    for _ in range(130):
        assert env.observation_space.contains(observation)
        observation, _, terminated, truncated, info = env.step(0)
        seen.append((info["task"], truncated, info["agent_steps"]))
        if terminated or truncated:
            observation, info = env.reset()
    assert [task for task, _, _ in seen] == [0] * 60 + [1] * 70
    assert seen[59] == (0, True, 60)
    assert info["finished"]


def test_the_same_seed_is_the_same_stream_and_another_is_not():
    envs = vector()
    first = envs.reset(seed=3)[0]
    for _ in range(25):  # across the switch
        envs.step(np.zeros(3, int))
    again, info = envs.reset(seed=3)
    np.testing.assert_array_equal(first, again)
    assert (info["task"][0], info["agent_steps"][0]) == (0, 0)
    assert not np.array_equal(first, envs.reset(seed=4)[0])


def test_it_goes_on_where_it_was_saved():
    one, other = vector(), vector()
    one.reset(seed=5)
    for _ in range(15):
        one.step(np.ones(3, int))
    other.load_state_dict(one.state_dict())
    for _ in range(20):
        for left, right in zip(one.step(np.ones(3, int))[:4], other.step(np.ones(3, int))[:4], strict=True):
            np.testing.assert_array_equal(left, right)


def test_sequences_by_name_and_words():
    assert sequence_of("atari", ("game=Pong", "agent_steps=8")).tasks[0].env == "ALE/Pong-v5"
    assert sequence_of(CONFIG) is CONFIG
    with pytest.raises(UserError, match="no sequence 'catch_permutd'"):
        vector("catch_permutd")
    with pytest.raises(UserError, match="'game' belongs to sequence=atari"):
        vector("catch_permuted", overrides=("game=Pong",))


def test_the_example_learns():
    path = Path(__file__).parents[2] / "examples" / "cleanrl_loop.py"
    spec = importlib.util.spec_from_file_location("cleanrl_loop", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = SequenceConfig(
        "catch", [TaskConfig("isorl/Catch-v0", agent_steps=8_192, kwargs={"size": 5}, count=2)]
    )
    returns = module.main(config)
    assert list(returns) == [0, 1]
    assert returns[1] > 0.2  # a random agent has -0.55
