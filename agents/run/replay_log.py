"""DQN's replay buffer on disk, written as it grows: a checkpoint costs what is new, not the whole buffer.

replay-<number>.rows    one record per vector step: observations, actions, rewards, dones, timeouts
replay-<number>.ends    the next observations of those steps where they are not the observations of the step after

Segments are only ever appended to. A checkpoint notes how much of each segment was there, with a checksum, so what
was appended later does not matter. A segment goes when the buffer has overwritten all of it and no checkpoint that
is kept needs it.
"""

from __future__ import annotations

import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents.replay import CountedReplay
from agents.run.files import sync_folder, sync_path
from configs import UserError

SEGMENTS = 8
"""Into so many the buffer is divided: at most an eighth more than the buffer lies on disk."""
PLAIN = ("observations", "actions", "rewards", "dones", "timeouts")


@dataclass
class Segment:
    """What of one segment belongs to a checkpoint."""

    number: int
    first: int  # vector step since the buffer was last cleared
    rows: int = 0
    ends: int = 0
    rows_checksum: int = 0  # CRC-32
    ends_checksum: int = 0


class ReplayLog:
    """The files of one buffer.

    Args:
        folder: where the segments lie.
        replay: the buffer.
    """

    def __init__(self, folder: Path, replay: CountedReplay) -> None:
        self.folder, self.replay = folder, replay
        self._segments: list[Segment] = []
        self._fresh = True  # begin a new segment: what is behind the noted end of an old one is unknown
        self._generation = replay.generation
        self._row = np.dtype([(name, *_row_of(replay, name)) for name in PLAIN])
        self._end = np.dtype([("step", np.int64), ("observations", *_row_of(replay, "next_observations"))])

    def append(self) -> dict[str, Any]:
        """Writes what is new in the buffer; gives back what a checkpoint notes: plain values."""
        replay = self.replay
        if replay.generation != self._generation:
            self._segments, self._fresh, self._generation = [], True, replay.generation
        written = self._segments[-1].first + self._segments[-1].rows if self._segments else 0
        oldest = max(replay.added - replay.buffer_size, 0)
        begin = max(written, oldest)
        self._fresh |= begin > written  # what lies between was overwritten before it was written
        while begin < replay.added:
            segment = self._segment(begin)
            end = min(replay.added, segment.first + self._segment_rows)
            end = min(end, begin + replay.buffer_size - begin % replay.buffer_size)  # not around the corner
            self._write(segment, begin, end)
            begin = end
        self._segments = [s for s in self._segments if s.first + s.rows > oldest]
        return {"added": replay.added, "segments": [asdict(segment) for segment in self._segments]}

    def sync(self) -> None:
        """Flushes to the disk what `append` wrote."""
        for segment in self._segments:
            for path in self._paths(segment.number):
                sync_path(path)
        if self._segments:
            sync_folder(self.folder)

    def load(self, noted: dict[str, Any]) -> None:
        """Fills the buffer as it was when `noted` was given back by `append`.

        Raises:
            UserError: files that are missing, damaged or of another buffer.
        """
        replay, added = self.replay, int(noted["added"])
        segments = [Segment(**entry) for entry in noted["segments"]]
        wanted = max(added - replay.buffer_size, 0)
        for segment in segments:
            if not 0 <= segment.first <= wanted or segment.rows < 1 or segment.ends < 1:
                raise UserError("The replay buffer's segments do not follow one another.")
            self._read(segment)
            wanted = segment.first + segment.rows
        if wanted != added:
            raise UserError(f"The replay buffer's segments end at vector step {wanted:,}, not {added:,}.")
        replay.added, replay.pos, replay.full = added, added % replay.buffer_size, added >= replay.buffer_size
        self._segments, self._fresh = segments, True

    def remove_all_but(self, noted: list[dict[str, Any]]) -> None:
        """Deletes the segments that none of these notes needs."""
        needed = {entry["number"] for note in noted for entry in note["segments"]}
        needed |= {segment.number for segment in self._segments}
        for path in self._files():
            if _number(path) not in needed:
                path.unlink()

    def _files(self) -> list[Path]:
        return [path for path in self.folder.glob("replay-*") if path.suffix in (".rows", ".ends")]

    @property
    def _segment_rows(self) -> int:
        return max(self.replay.buffer_size // SEGMENTS, 1)

    def _segment(self, begin: int) -> Segment:
        """The segment that takes the row `begin`."""
        if self._fresh or not self._segments or self._segments[-1].rows >= self._segment_rows:
            used = [_number(path) for path in self._files()]
            self._segments.append(Segment(max(used, default=-1) + 1, begin))
            self._fresh = False
        return self._segments[-1]

    def _write(self, segment: Segment, begin: int, end: int) -> None:
        replay = self.replay
        slots = slice(begin % replay.buffer_size, begin % replay.buffer_size + end - begin)
        rows = np.empty(end - begin, self._row)
        for name in PLAIN:
            rows[name] = getattr(replay, name)[slots]
        after, here = replay.next_observations[slots], rows["observations"]
        follows = [one.tobytes() == next_.tobytes() for one, next_ in zip(after[:-1], here[1:], strict=True)]
        steps = np.flatnonzero([not same for same in follows] + [True])
        ends = np.empty(len(steps), self._end)
        ends["step"], ends["observations"] = begin + steps, after[steps]
        rows_path, ends_path = self._paths(segment.number)
        segment.rows_checksum = _append(rows_path, rows, segment.rows_checksum)
        segment.ends_checksum = _append(ends_path, ends, segment.ends_checksum)
        segment.rows += len(rows)
        segment.ends += len(ends)

    def _read(self, segment: Segment) -> None:
        rows_path, ends_path = self._paths(segment.number)
        rows = _read(rows_path, self._row, segment.rows, segment.rows_checksum)
        ends = _read(ends_path, self._end, segment.ends, segment.ends_checksum)
        after = np.empty_like(rows["observations"])
        after[:-1] = rows["observations"][1:]
        after[ends["step"] - segment.first] = ends["observations"]
        self.replay.refill(segment.first, {name: rows[name] for name in PLAIN} | {"next_observations": after})

    def _paths(self, number: int) -> tuple[Path, Path]:
        name = f"replay-{int(number):06}"
        return self.folder / f"{name}.rows", self.folder / f"{name}.ends"


def _row_of(replay: CountedReplay, name: str) -> tuple[np.dtype, tuple[int, ...]]:
    array = getattr(replay, name)
    return array.dtype, array.shape[1:]


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("replay-"))


def _append(path: Path, records: np.ndarray, checksum: int) -> int:
    content = records.tobytes()
    with path.open("ab") as file:
        file.write(content)
    return zlib.crc32(content, checksum)


def _read(path: Path, record: np.dtype, count: int, checksum: int) -> np.ndarray:
    """The first `count` records.

    Raises:
        UserError: they are not what was written.
    """
    if path.stat().st_size < count * record.itemsize:
        raise UserError(f"'{path}' is too short.")
    records = np.fromfile(path, record, count)
    if zlib.crc32(records.tobytes()) != checksum:
        raise UserError(f"'{path}' is damaged.")
    return records
