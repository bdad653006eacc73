"""MinAtar's games are played as MinAtar plays them, faster and with an exact state."""

import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from isorl.configs import TaskConfig, UserError
from isorl.envs import minatar
from isorl.envs.sequence import Task, _with_known_id
from isorl.envs.task_env import TaskEnv

GAMES = ["Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders"]


@pytest.fixture(autouse=True)
def _registered():
    pytest.importorskip("minatar")
    minatar.register()


def theirs(env_id):
    from minatar.gym import BaseEnv

    return BaseEnv(**gymnasium.spec(env_id).kwargs)


@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize("game", GAMES)
def test_a_task_plays_what_minatar_plays(game, version):
    """Three copies against three of MinAtar's own environments: the same seeds, step for step across episodes."""
    env_id = f"MinAtar/{game}-{version}"
    env = TaskEnv(Task(0, game, env_id, 1), 3)
    bare = [theirs(env_id) for _ in range(3)]
    expected = [one.reset(seed=5 + copy)[0] for copy, one in enumerate(bare)]
    observations = env.reset(5)
    rng, ended = np.random.default_rng(0), 0
    assert env.action_space == bare[0].action_space
    for _ in range(1_000):
        np.testing.assert_array_equal(observations, np.moveaxis(expected, -1, 1))
        actions = rng.integers(env.action_space.n, size=3)
        step = env.step(actions)
        for copy, one in enumerate(bare):
            expected[copy], reward, terminated, _, _ = one.step(actions[copy])
            assert (step.rewards[copy], step.done[copy]) == (reward, terminated)
            np.testing.assert_array_equal(step.final[copy], np.moveaxis(expected[copy], -1, 0))
            if terminated:
                ended += 1
                expected[copy], _ = one.reset()
        observations = step.observations
    assert ended or game == "Freeway"  # whose episodes have 2,500 steps


def test_check_env():
    env = gymnasium.make("MinAtar/Breakout-v1", render_mode="rgb_array")
    check_env(env.unwrapped)
    env.reset(seed=0)
    for _ in range(3):
        env.step(1)
    frame = env.render()
    assert (frame.shape, frame.dtype) == ((240, 240, 3), np.uint8)
    assert len(np.unique(frame.reshape(-1, 3), axis=0)) == 5  # black, paddle, ball, its trail, bricks
    env.close()


def test_an_episode_can_be_limited():
    env = TaskEnv(Task(0, "freeway", "MinAtar/Freeway-v0", 1, {"max_episode_steps": 7}), 2)
    env.reset(0)
    over = [env.step(np.zeros(2, int)).truncated.tolist() for _ in range(8)]
    assert over == [[False, False]] * 6 + [[True, True]] + [[False, False]]


def test_it_is_registered_when_it_is_named_and_asked_for_when_it_is_missing(monkeypatch):
    for env_id in [env_id for env_id in gymnasium.registry if env_id.startswith("MinAtar/")]:
        monkeypatch.delitem(gymnasium.registry, env_id)
    assert _with_known_id(TaskConfig("MinAtar/Seaquest-v1", agent_steps=1)).env == "MinAtar/Seaquest-v1"
    with pytest.raises(UserError, match="Did you mean 'MinAtar/Seaquest-v1'"):
        _with_known_id(TaskConfig("MinAtar/Seequest-v1", agent_steps=1))
    monkeypatch.setitem(sys.modules, "minatar.gym", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[minatar\]'"):
        _with_known_id(TaskConfig("MinAtar/Seaquest-v1", agent_steps=1))
