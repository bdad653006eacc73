"""The replay buffer on disk: what comes back is what was there, whatever happened since."""

import numpy as np
import pytest
from gymnasium import spaces

from agents.dqn import CountedReplay
from agents.run.replay_log import PLAIN, ReplayLog
from configs import UserError

SIZE = 40


def buffer(n_envs=2):
    replay = CountedReplay(SIZE * n_envs, spaces.Box(-9, 9, (3,)), spaces.Discrete(4), n_envs=n_envs)
    assert replay.buffer_size == SIZE
    return replay


def play(replay, steps, rng):
    """Transitions that follow one another, but for ends of episodes."""
    last = rng.normal(size=(replay.n_envs, 3)).astype(np.float32)
    for _ in range(steps):
        after = rng.normal(size=last.shape).astype(np.float32)
        done = rng.random(replay.n_envs) < 0.2
        action, reward = rng.integers(4, size=replay.n_envs), rng.normal(size=replay.n_envs)
        infos = [{"TimeLimit.truncated": bool(rng.random() < 0.5)} for _ in done]
        replay.add(last, after, action, reward, done, infos)
        last = np.where(done[:, None], rng.normal(size=last.shape), after).astype(np.float32)


def filled(replay):
    names = (*PLAIN, "next_observations")
    return {name: getattr(replay, name)[: replay.size()].copy() for name in names}, replay.pos, replay.full


def assert_same(replay, expected):
    arrays, pos, full = expected
    assert (replay.pos, replay.full) == (pos, full)
    for name, values in arrays.items():
        np.testing.assert_array_equal(getattr(replay, name)[: replay.size()], values)


@pytest.mark.parametrize("seed", range(20))
def test_what_was_noted_comes_back(tmp_path, seed):
    """Appends of any size, clearings, around the corner of the ring; and the writer goes on after the last note."""
    rng = np.random.default_rng(seed)
    replay = buffer()
    log = ReplayLog(tmp_path, replay)
    notes = []
    for _ in range(rng.integers(1, 8)):
        if rng.random() < 0.2:
            replay.reset()
        play(replay, int(rng.integers(0, 90)), rng)
        notes = [*notes[-1:], log.append()]
        log.remove_all_but(notes)
    expected = filled(replay)
    play(replay, int(rng.integers(0, 90)), rng)
    log.append()

    resumed = buffer()
    second = ReplayLog(tmp_path, resumed)
    second.load(notes[-1])
    assert_same(resumed, expected)
    play(resumed, int(rng.integers(0, 90)), rng)
    noted, expected = second.append(), filled(resumed)
    third = buffer()
    ReplayLog(tmp_path, third).load(noted)
    assert_same(third, expected)


def test_little_more_than_the_buffer_lies_on_disk(tmp_path):
    replay, rng = buffer(), np.random.default_rng(0)
    log = ReplayLog(tmp_path, replay)
    for _ in range(60):
        play(replay, 7, rng)
        log.remove_all_but([log.append()])
    rows = sum(path.stat().st_size for path in tmp_path.glob("*.rows")) / log._row.itemsize
    assert SIZE <= rows <= SIZE * 1.25


def test_damage_is_refused(tmp_path):
    replay = buffer()
    play(replay, 30, np.random.default_rng(0))
    noted = ReplayLog(tmp_path, replay).append()
    path = next(tmp_path.glob("*.rows"))
    content = path.read_bytes()
    path.write_bytes(content[:20] + bytes([content[20] ^ 1]) + content[21:])
    with pytest.raises(UserError, match="damaged"):
        ReplayLog(tmp_path, buffer()).load(noted)
    path.write_bytes(content[:-1])
    with pytest.raises(UserError, match="too short"):
        ReplayLog(tmp_path, buffer()).load(noted)
    noted["segments"] = noted["segments"][1:]
    with pytest.raises(UserError, match="do not follow"):
        ReplayLog(tmp_path, buffer()).load(noted)
