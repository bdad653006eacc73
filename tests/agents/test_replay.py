"""Frames stored once give back what stable-baselines3's buffer gives back, element by element."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from isorl.agents.replay import FrameReplay, holds_frames
from isorl.configs.schema import SequenceConfig, TaskConfig
from isorl.envs import Sequence, SwitchingVecEnv

ATARI = spaces.Box(0, 255, (4, 84, 84), np.uint8)
NINE = spaces.Discrete(9)


def fill(buffers, env, steps, rng):
    """Plays `steps` vector steps at random and gives them to all buffers as DQN does."""
    observations = env.reset()
    for _ in range(steps):
        actions = rng.integers(env.action_space.n, size=env.num_envs)
        new, rewards, dones, infos = env.step(actions)
        after = new.copy()
        for copy in np.flatnonzero(dones):
            after[copy] = infos[copy]["terminal_observation"]
        for buffer in buffers:
            buffer.add(observations, after, actions, rewards, dones, infos)
        observations = new


def assert_equal(ours, theirs):
    filled = theirs.size()
    assert (ours.pos, ours.full) == (theirs.pos, theirs.full)
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        np.testing.assert_array_equal(getattr(ours, name)[:filled], getattr(theirs, name)[:filled], name)
    np.random.seed(3)
    left = ours.sample(32)
    np.random.seed(3)
    right = theirs.sample(32)
    for a, b in zip(left[:5], right[:5], strict=True):
        assert torch.equal(a, b)


def atari(games, agent_steps, n_envs, announce=False):
    tasks = [TaskConfig(f"ALE/{game}-v5", agent_steps=agent_steps) for game in games]
    config = SequenceConfig("games", tasks, announce=announce)
    return SwitchingVecEnv(Sequence.from_config(config, 0, n_envs), n_envs, 0)


@pytest.mark.parametrize("announce", [False, True])
def test_equal_on_games_across_switches_lives_and_the_end_of_the_buffer(announce):
    env = atari(["Breakout", "Pong", "Breakout"], 600, 2, announce)
    space = env.observation_space
    buffers = [kind(500, space, env.action_space, "cpu", 2) for kind in (FrameReplay, ReplayBuffer)]
    rng = np.random.default_rng(0)
    ends = set()
    for _ in range(6):
        fill(buffers, env, 160, rng)
        assert_equal(*buffers)
        ends |= {
            (lost, cut) for lost, cut in zip(buffers[1].dones.flat, buffers[1].timeouts.flat, strict=True)
        }
    assert buffers[0].full
    assert ends == {(0, 0), (1, 0), (1, 1)}  # neither, a lost life or game, a switch
    for buffer in buffers:
        buffer.reset()
    fill(buffers, env, 20, rng)
    assert_equal(*buffers)
    env.close()


@pytest.mark.parametrize("continues", [0.0, 0.5, 0.95])
def test_equal_on_images_that_seldom_continue(continues):
    """The ring grows where more frames are new than was planned."""
    rng = np.random.default_rng(0)
    space = spaces.Box(0, 255, (3, 8, 8), np.uint8)
    buffers = [kind(20, space, NINE, "cpu", 2) for kind in (FrameReplay, ReplayBuffer)]
    planned = buffers[0]._ring.nbytes
    observations = rng.integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
    for _ in range(100):
        new = rng.integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
        for copy in range(2):
            if rng.random() < continues:
                new[copy, :-1] = observations[copy, 1:]
            elif rng.random() < 0.3:
                new[copy] = observations[copy]  # nothing moves
        done = rng.random(2) < 0.1
        for buffer in buffers:
            buffer.add(observations, new, np.zeros(2), np.zeros(2), done, [{}, {}])
        observations = np.where(done[:, None, None, None], rng.integers(0, 2, new.shape) * 255, new).astype(
            np.uint8
        )
        assert_equal(*buffers)
    assert buffers[0]._ring.nbytes > planned


def test_memory_per_transition():
    replay = FrameReplay(10_000, ATARI, NINE)
    held = sum(value.nbytes for value in vars(replay).values() if isinstance(value, np.ndarray))
    assert held / 10_000 < 7_200


def test_games_fit_into_the_planned_memory():
    env = atari(["Breakout"], 10_000, 1)
    replay = FrameReplay(1000, env.observation_space, env.action_space)
    planned = len(replay._ring)
    fill([replay], env, 3000, np.random.default_rng(0))
    assert len(replay._ring) == planned
    env.close()


def test_which_observations_are_frames():
    assert holds_frames(ATARI)
    assert not holds_frames(spaces.Box(0, 1, (4, 84, 84), np.float32))
    assert not holds_frames(spaces.Box(0, 255, (84,), np.uint8))


def test_refilled_is_the_same():
    """As a checkpoint does it: in pieces, of which the first begins in the middle of the buffer."""
    env = atari(["Breakout"], 10_000, 2)
    saved, empty = (FrameReplay(60, env.observation_space, env.action_space, "cpu", 2) for _ in range(2))
    fill([saved], env, 50, np.random.default_rng(0))
    names = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
    for first, end in ((20, 30), (30, 33), (33, 50)):
        slots = np.arange(first, end) % 30
        empty.refill(first, {name: getattr(saved, name)[slots] for name in names})
    assert empty.added == saved.added
    assert_equal(empty, saved)
    rng = np.random.default_rng(1)
    fill([empty, saved], env, 40, rng)
    assert_equal(empty, saved)
    env.close()
