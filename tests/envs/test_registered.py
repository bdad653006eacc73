"""The registered environments work with Gymnasium alone, and keep its rules."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import isorl.envs  # noqa: F401  registers them
from isorl.envs.sequence import Task
from isorl.envs.task_env import TaskEnv

NUMPY = ["isorl/NineRooms-v0", "isorl/Catch-v0", "isorl/Rain-v0", "isorl/Forager-v0"]


@pytest.mark.parametrize("env_id", NUMPY)
def test_check_env(env_id):
    env = gymnasium.make(env_id, render_mode="rgb_array")
    check_env(env.unwrapped)
    env.close()


@pytest.mark.parametrize("env_id", NUMPY)
def test_one_copy_equals_a_vector_of_one(env_id):
    single = gymnasium.make(env_id)
    vector = gymnasium.make_vec(env_id, 1, vectorization_mode="vector_entry_point")
    rng = np.random.default_rng(0)
    observation, _ = single.reset(seed=3)
    batch, _ = vector.reset(seed=3)
    for _ in range(300):
        np.testing.assert_array_equal(observation, batch[0])
        action = rng.integers(single.action_space.n)
        observation, reward, terminated, truncated, _ = single.step(action)
        batch, rewards, ended, cut, infos = vector.step(np.array([action]))
        assert (reward, terminated, truncated) == (rewards[0], ended[0], cut[0])
        if terminated or truncated:
            np.testing.assert_array_equal(observation, infos["final_obs"][0])
            observation = batch[0]  # both have started the next episode already


@pytest.mark.parametrize("env_id", NUMPY)
def test_pictures(env_id):
    env = gymnasium.make(env_id, render_mode="rgb_array")
    env.reset(seed=0)
    frame = env.render()
    assert frame.dtype == np.uint8
    assert frame.shape[2] == 3
    assert frame.std() > 0


@pytest.mark.filterwarnings("ignore:.*probably too:UserWarning")  # Ant-v5's own unbounded space
def test_slippery_ant():
    pytest.importorskip("mujoco")
    env = gymnasium.make("isorl/SlipperyAnt-v0", friction=0.1)
    check_env(env.unwrapped, skip_render_check=True)
    assert env.spec.max_episode_steps == 1000
    plain = gymnasium.make("Ant-v5")
    np.testing.assert_array_equal(env.unwrapped.model.geom_friction[:, 0], 0.1)
    np.testing.assert_array_equal(
        env.unwrapped.model.geom_friction[:, 1:], plain.unwrapped.model.geom_friction[:, 1:]
    )
    same = gymnasium.make("isorl/SlipperyAnt-v0")
    rng = np.random.default_rng(0)
    one, other, slippery = (made.reset(seed=0)[0] for made in (plain, same, env))
    for _ in range(30):
        action = rng.uniform(-1, 1, 8).astype(np.float32)
        one, other, slippery = (made.step(action)[0] for made in (plain, same, env))
        np.testing.assert_array_equal(one, other)
    assert not np.allclose(one, slippery)
    with pytest.raises(ValueError, match="friction"):
        gymnasium.make("isorl/SlipperyAnt-v0", friction=0.0)


def test_shifted_is_what_a_sequence_plays():
    shifts = [{"name": "rotate_observation", "seed": 1}, {"name": "permute_actions", "seed": 2}]
    env = gymnasium.make("isorl/Shifted-v0", env="Acrobot-v1", shifts=shifts)
    check_env(env.unwrapped, skip_render_check=True)
    played = TaskEnv(Task(0, "shifted", "Acrobot-v1", 1, shifts=tuple(shifts)), 1)
    observation, _ = env.reset(seed=3)
    batch = played.reset(3)
    rng = np.random.default_rng(0)
    for _ in range(100):
        np.testing.assert_allclose(observation, batch[0], atol=1e-6)
        action = rng.integers(3)
        observation, reward, *_ = env.step(action)
        step = played.step(np.array([action]))
        batch = step.observations
        assert reward == step.rewards[0]
