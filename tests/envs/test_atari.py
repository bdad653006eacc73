"""Native and classic Atari, frame for frame and reward for reward, and the decisions about lost lives and FIRE."""

import numpy as np
import pytest

from isorl.configs import TaskConfig
from isorl.envs.make import make_vector_env
from isorl.envs.sequence import Task, _with_known_id
from isorl.envs.task_env import TaskEnv

_with_known_id(TaskConfig("ALE/Pong-v5", frames=8))  # registers the games
DETERMINISTIC = {"repeat_action_probability": 0.0, "noop_max": 0}


def task(game, **kwargs):
    return Task(0, game, f"ALE/{game}-v5", 1000, {**DETERMINISTIC, **kwargs})


def classic(game, n_envs, **kwargs):
    return make_vector_env(task(game, mode=0, **kwargs), n_envs, render=False)


@pytest.mark.parametrize(
    ("game", "steps"),
    [("Breakout", 400), ("SpaceInvaders", 700), ("Alien", 400), ("Boxing", 150), ("MsPacman", 500)],
)
def test_native_equals_classic(game, steps):
    """Observations before and after autoreset, raw rewards, ends, lost lives: over several lives and games."""
    native, wrapped = make_vector_env(task(game), 2, render=False), classic(game, 2)
    assert type(native) is not type(wrapped)
    np.testing.assert_array_equal(native.reset(seed=1)[0], wrapped.reset(seed=1)[0])
    rng = np.random.default_rng(0)
    lost = over = 0
    for _ in range(steps):
        actions = rng.integers(18, size=2)
        ours, theirs = native.step(actions), wrapped.step(actions)
        for left, right in zip(ours[:4], theirs[:4], strict=True):
            np.testing.assert_array_equal(left, right)
        done = ours[2] | ours[3]
        if done.any():
            lives = theirs[4].get("life_lost", np.zeros(2, bool))
            np.testing.assert_array_equal(ours[4]["life_lost"], lives & done)
            lost, over = lost + lives.sum(), over + (done & ~lives).sum()
            for copy in np.flatnonzero(done):
                np.testing.assert_array_equal(ours[4]["final_obs"][copy], theirs[4]["final_obs"][copy])
    if game in ("Breakout", "SpaceInvaders"):
        assert lost > 3
        assert over > 0
    native.close()
    wrapped.close()


@pytest.mark.parametrize("kwargs", [{}, {"mode": 0}], ids=["native", "classic"])
def test_a_lost_life_terminates_but_the_game_goes_on(kwargs):
    env = TaskEnv(task("Breakout", **kwargs), 1)
    env.reset(0)
    rng = np.random.default_rng(0)
    lives_lost = 0
    for _ in range(400):
        step = env.step(rng.integers(18, size=1))
        if step.terminated[0] and not step.episodes:
            lives_lost += 1
            np.testing.assert_array_equal(
                step.final, step.observations
            )  # nothing was reset, the stack is kept
        if step.episodes:
            break
    assert lives_lost == 4  # the fifth life ends the game
    assert step.terminated[0]
    assert not np.array_equal(step.final, step.observations)
    env.close()


def test_rewards_are_clipped_for_training_and_reported_raw():
    env = TaskEnv(task("Alien"), 2)
    env.reset(0)
    rng = np.random.default_rng(0)
    raw, lengths, finished = np.zeros(2), np.zeros(2), []
    while not finished:
        step = env.step(rng.integers(18, size=2))
        np.testing.assert_array_equal(step.rewards, np.sign(step.raw_rewards))
        raw, lengths = raw + step.raw_rewards, lengths + 1
        finished = step.episodes
    episode = finished[0]
    assert episode.raw_return == raw[episode.copy] > 50
    assert episode.length == lengths[episode.copy]
    env.close()


def test_modes_and_difficulties_change_the_game():
    seen = []
    for kwargs in ({"mode": 0}, {"mode": 5}, {"mode": 0, "difficulty": 1}):
        env = make_vector_env(task("SpaceInvaders", **kwargs), 1, render=False)
        env.reset(seed=0)
        seen.append(np.stack([env.step(np.array([step % 6]))[0] for step in range(60)]))
        env.close()
    assert not np.array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[0], seen[2])
