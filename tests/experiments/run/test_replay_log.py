"""The replay buffer on disk: what comes back is what was there, whatever happened since."""

import zlib

import numpy as np
import pytest
import zstandard
from gymnasium import spaces

from isorl.agents.replay import CountedReplay, FrameReplay
from isorl.configs import UserError
from isorl.experiments.run import replay_log
from isorl.experiments.run.replay_log import PLAIN, ReplayLog

SIZE = 40
SPACES = {CountedReplay: spaces.Box(-9, 9, (3,)), FrameReplay: spaces.Box(0, 255, (3, 4, 2), np.uint8)}
BOTH = pytest.mark.parametrize("kind", SPACES)


def buffer(kind=CountedReplay, n_envs=2):
    replay = kind(SIZE * n_envs, SPACES[kind], spaces.Discrete(4), n_envs=n_envs)
    assert replay.buffer_size == SIZE
    return replay


def anything(replay, rng):
    """(N, ...) observations; some images are black."""
    shape = (replay.n_envs, *replay.obs_shape)
    if isinstance(replay, FrameReplay):
        return rng.integers(256, size=shape, dtype=np.uint8) * (rng.random(shape[:2]) < 0.8)[..., None, None]
    return rng.normal(size=shape).astype(np.float32)


def next_of(replay, last, rng):
    """What follows: of images, one more frame, or in some copies none."""
    after = anything(replay, rng)
    if isinstance(replay, FrameReplay):
        after[:, :-1] = last[:, 1:]
        still = rng.random(replay.n_envs) < 0.2
        after[still] = last[still]
    return after


def play(replay, steps, rng):
    """Transitions that follow one another, but for ends of episodes."""
    last = anything(replay, rng)
    for _ in range(steps):
        after = next_of(replay, last, rng)
        done = rng.random(replay.n_envs) < 0.2
        action, reward = rng.integers(4, size=replay.n_envs), rng.normal(size=replay.n_envs)
        infos = [{"TimeLimit.truncated": bool(rng.random() < 0.5)} for _ in done]
        replay.add(last, after, action, reward, done, infos)
        last = np.where(done.reshape(-1, *[1] * (after.ndim - 1)), anything(replay, rng), after)


def filled(replay):
    names = ("observations", *PLAIN, "next_observations")
    return {name: getattr(replay, name)[: replay.size()].copy() for name in names}, replay.pos, replay.full


def assert_same(replay, expected):
    arrays, pos, full = expected
    assert (replay.pos, replay.full) == (pos, full)
    for name, values in arrays.items():
        np.testing.assert_array_equal(getattr(replay, name)[: replay.size()], values)


@BOTH
@pytest.mark.parametrize("seed", range(20))
def test_what_was_noted_comes_back(tmp_path, seed, kind):
    """Appends of any size, clearings, around the corner of the ring; and the writer goes on after the last note."""
    rng = np.random.default_rng(seed)
    replay = buffer(kind)
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

    resumed = buffer(kind)
    second = ReplayLog(tmp_path, resumed)
    second.load(notes[-1])
    assert_same(resumed, expected)
    play(resumed, int(rng.integers(0, 90)), rng)
    noted, expected = second.append(), filled(resumed)
    third = buffer(kind)
    ReplayLog(tmp_path, third).load(noted)
    assert_same(third, expected)


def test_little_more_than_the_buffer_lies_on_disk(tmp_path):
    replay, rng = buffer(), np.random.default_rng(0)
    log = ReplayLog(tmp_path, replay)
    for _ in range(60):
        play(replay, 7, rng)
        noted = log.append()
        log.remove_all_but([noted])
    assert SIZE <= sum(segment["rows"] for segment in noted["segments"]) <= SIZE * 1.25
    assert len(list(tmp_path.glob("*.rows"))) == len(noted["segments"])


def test_a_segment_takes_its_share_of_the_buffer_before_the_next_begins(tmp_path):
    replay, rng = buffer(), np.random.default_rng(0)
    log = ReplayLog(tmp_path, replay)
    share, rows = SIZE // replay_log.SEGMENTS, []
    for _ in range(2 * share):
        play(replay, 1, rng)
        rows = [segment["rows"] for segment in log.append()["segments"]]
    assert rows == [share, share]


def test_every_frame_is_written_once(tmp_path):
    replay, rng = buffer(FrameReplay, n_envs=1), np.random.default_rng(0)
    log = ReplayLog(tmp_path, replay)
    for _ in range(6):
        play(replay, 6, rng)
        noted = log.append()
    frames = sum(segment["ends"] for segment in noted["segments"])
    assert (
        replay._pushed <= frames <= replay._pushed + 3 * len(noted["segments"])
    )  # a stack begins before its segment


@BOTH
@pytest.mark.parametrize("whole_files", [0, 1])
def test_stopped_while_it_writes_the_last_note_still_holds(tmp_path, monkeypatch, kind, whole_files):
    replay, rng = buffer(kind), np.random.default_rng(0)
    log = ReplayLog(tmp_path, replay)
    play(replay, 7, rng)
    noted, expected = log.append(), filled(replay)
    real, files = replay_log._append, []

    def stopped(path, records, checksum):
        if len(files) == whole_files:
            raise KeyboardInterrupt
        files.append(path)
        return real(path, records, checksum)

    monkeypatch.setattr(replay_log, "_append", stopped)
    play(replay, 7, rng)  # goes on in a segment that is not there yet
    with pytest.raises(KeyboardInterrupt):
        log.append()
    log.sync(noted)
    log.remove_all_but([noted])
    resumed = buffer(kind)
    ReplayLog(tmp_path, resumed).load(noted)
    assert_same(resumed, expected)


@BOTH
def test_damage_is_refused(tmp_path, kind):
    replay = buffer(kind)
    play(replay, 30, np.random.default_rng(0))
    noted = ReplayLog(tmp_path, replay).append()
    path = next(tmp_path.glob("*.rows"))
    content = path.read_bytes()
    path.write_bytes(content[:20] + bytes([content[20] ^ 1]) + content[21:])
    with pytest.raises(UserError, match="damaged"):
        ReplayLog(tmp_path, buffer(kind)).load(noted)
    path.write_bytes(content[:-1])
    with pytest.raises(UserError, match="too short"):
        ReplayLog(tmp_path, buffer(kind)).load(noted)
    noted["segments"] = noted["segments"][1:]
    with pytest.raises(UserError, match="do not follow"):
        ReplayLog(tmp_path, buffer(kind)).load(noted)


def test_frames_that_are_missing_are_refused(tmp_path):
    replay = buffer(FrameReplay)
    play(replay, 30, np.random.default_rng(0))
    noted = ReplayLog(tmp_path, replay).append()
    for segment in noted["segments"]:
        segment |= {"ends": 0, "ends_checksum": 0}
    with pytest.raises(UserError, match="missing"):
        ReplayLog(tmp_path, buffer(FrameReplay)).load(noted)


@BOTH
@pytest.mark.parametrize(
    "name", ["rows", "ends", "rows_bytes", "ends_bytes", "rows_checksum", "ends_checksum"]
)
@pytest.mark.parametrize("by", [-1, 1, 10**12])
def test_a_note_that_does_not_fit_the_files_is_refused(tmp_path, kind, name, by):
    replay, rng = buffer(kind), np.random.default_rng(0)
    log = ReplayLog(tmp_path, replay)
    play(replay, 4, rng)  # less than a segment
    noted = log.append()
    (segment,) = noted["segments"]
    segment[name] += by
    with pytest.raises(UserError):
        ReplayLog(tmp_path, buffer(kind)).load(noted)


def test_what_unfolds_to_more_than_was_noted_is_refused(tmp_path):
    """A bomb: little on the disk, without end in memory."""
    replay = buffer()
    log = ReplayLog(tmp_path, replay)
    play(replay, 4, np.random.default_rng(0))
    noted = log.append()
    (segment,) = noted["segments"]
    (path,) = tmp_path.glob("*.rows")
    zeros = zstandard.compress(bytes(1 << 20))
    for content in (zeros * 16, zstandard.compress(bytes(1 << 24)), b"no zstd", zeros[:-3]):
        path.write_bytes(content)
        segment |= {"rows_bytes": len(content), "rows_checksum": zlib.crc32(content)}
        with pytest.raises(UserError, match=r"cannot be decompressed|does not hold"):
            ReplayLog(tmp_path, buffer()).load(noted)
