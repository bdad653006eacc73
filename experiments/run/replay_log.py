"""Keeps DQN's replay buffer on disk as it grows: a checkpoint costs what is new, not the whole buffer.

replay-<number>.rows    one record per vector step: actions, rewards, dones, timeouts, and either
                        the observations, or
                        the places of the frames of which the observations and the next ones are stacked
replay-<number>.ends    the next observations of those steps where they are not the observations of the step after
replay-<number>.frames  the frames at these places, each once: a quarter of what four stacked frames take

All are compressed (zstd): frames of Breakout to a fiftieth, in less time than the disk would take for the rest.
Segments are only ever appended to. A checkpoint notes how much of each segment was there, with a checksum, so what
was appended later does not matter. A segment goes when the buffer has overwritten all of it and no checkpoint that
is kept needs it.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from zstandard import ZstdCompressor, ZstdDecompressor, ZstdError

from isorl.agents.replay import BLACK, WHITE, CountedReplay, FrameReplay
from isorl.configs import UserError
from isorl.experiments.run.atomic_write import sync_folder, sync_path

SEGMENTS = 8
"""Segments into which the buffer is divided: at most an eighth more than the buffer lies on disk."""
PLAIN = ("actions", "rewards", "dones", "timeouts")
BLOCK = 1 << 20
"""Bytes that are compressed by themselves."""


@dataclass
class Segment:
    """Says what of one segment belongs to a checkpoint."""

    number: int
    first: int  # vector step since the buffer was last cleared
    rows: int = 0
    ends: int = 0  # or frames
    rows_bytes: int = 0  # of the file
    ends_bytes: int = 0
    rows_checksum: int = 0  # CRC-32 of these
    ends_checksum: int = 0


class Form(Protocol):
    """Says how observations are written.

    Attributes:
        suffix: of the second file.
        row: what a row holds of them.
        other: a record of the second file.
        most: of these that belong to one row.
    """

    suffix: str
    row: list[Any]
    other: np.dtype
    most: int

    def write(self, rows: np.ndarray, slots: slice, segment: Segment) -> Sequence[np.ndarray]:
        """Fills its part of `rows`, which follow those of `segment` and are in the buffer at `slots`.

        Returns:
            What is to be appended to the second file, (K, ...) records each.
        """

    def read(self, rows: np.ndarray, others: np.ndarray, segment: Segment) -> tuple[np.ndarray, np.ndarray]:
        """Returns the observations of `rows` and the next ones."""


class Whole:
    """Writes every observation once: most next observations are the observations of the step after."""

    suffix = ".ends"
    most = 1

    def __init__(self, replay: CountedReplay) -> None:
        self.replay = replay
        self.row = [("observations", *_row_of(replay, "observations"))]
        self.other = np.dtype([("step", np.int64), ("observations", *_row_of(replay, "next_observations"))])

    def write(self, rows: np.ndarray, slots: slice, segment: Segment) -> Sequence[np.ndarray]:
        """Fills in the observations; returns the next observations that are not in the row after."""
        rows["observations"] = here = self.replay.observations[slots]
        after = self.replay.next_observations[slots]
        follows = [one.tobytes() == next_.tobytes() for one, next_ in zip(after[:-1], here[1:], strict=True)]
        steps = np.flatnonzero([not same for same in follows] + [True])
        ends = np.empty(len(steps), self.other)
        ends["step"], ends["observations"] = segment.first + segment.rows + steps, after[steps]
        return [ends]

    def read(self, rows: np.ndarray, ends: np.ndarray, segment: Segment) -> tuple[np.ndarray, np.ndarray]:
        """Returns the observations that `write` was given, and the next ones."""
        if not len(ends):
            raise UserError("The replay buffer's segments do not follow one another.")
        after = np.empty_like(rows["observations"])
        after[:-1] = rows["observations"][1:]
        after[ends["step"] - segment.first] = ends["observations"]
        return rows["observations"], after


class Frames:
    """Writes every frame once: the second file has the frames of the buffer's ring, and rows have places in it."""

    suffix = ".frames"

    def __init__(self, replay: FrameReplay) -> None:
        self.replay = replay
        self.row = [("places", np.int32, replay.numbered(slice(0)).shape[1:])]
        self.other = np.dtype((np.uint8, replay.obs_shape[1:]))
        self.most = int(np.prod(self.row[0][2]))
        self._early = np.empty(0, np.int64)
        """Numbers of the frames with which the segment begins, in order; all later ones follow without a gap."""
        self._last = -1  # number of the newest frame in the segment

    def write(self, rows: np.ndarray, slots: slice, segment: Segment) -> Sequence[np.ndarray]:
        """Fills in places; returns the frames that are not in the segment yet.

        A step's frames are new, or were those of the step before: so a segment begins with those of its first step.
        """
        numbers = self.replay.numbered(slots)
        begins: list[np.ndarray] = []
        if not segment.rows:
            self._early = np.unique(numbers[0][numbers[0] >= 0])
            self._last = int(self._early.max(initial=-1))
            begins = [self.replay.stacks(self._early)]
        newest = max(self._last, int(numbers.max()))
        new = self.replay.frames(self._last + 1, newest + 1)
        self._last = newest
        rows["places"] = self._places(numbers)
        return [*begins, *new]

    def _places(self, numbers: np.ndarray) -> np.ndarray:
        """Where in the segment's file the frames are; constant ones keep their negative numbers."""
        early = self._early
        newest = int(early.max(initial=-1))
        places = np.where(numbers > newest, numbers - (newest + 1 - len(early)), numbers)
        known = (numbers >= 0) & (numbers <= newest)
        places[known] = np.searchsorted(early, numbers[known])
        return places

    def read(self, rows: np.ndarray, frames: np.ndarray, segment: Segment) -> tuple[np.ndarray, np.ndarray]:
        """Returns the observations that `write` was given, and the next ones."""
        places = rows["places"]
        if places.max(initial=-1) >= len(frames) or places.min(initial=0) < WHITE:
            raise UserError("Frames of the replay buffer are missing.")
        constant = self.replay.stacks(np.array([WHITE, BLACK]))  # at the end, where -2 and -1 point
        pixels = np.concatenate([frames, constant])
        return pixels[places[:, 0]], pixels[places[:, 1]]


class ReplayLog:
    """Writes and reads the files of one buffer.

    Args:
        folder: where the segments lie.
        replay: the buffer.
    """

    def __init__(self, folder: Path, replay: CountedReplay) -> None:
        self.folder, self.replay = folder, replay
        self._segments: list[Segment] = []
        self._fresh = True  # begin a new segment: what is behind the noted end of an old one is unknown
        self._generation = replay.generation
        self._form: Form = Frames(replay) if isinstance(replay, FrameReplay) else Whole(replay)
        self._row = np.dtype([*self._form.row, *((name, *_row_of(replay, name)) for name in PLAIN)])

    def append(self) -> dict[str, Any]:
        """Writes what is new in the buffer; returns what a checkpoint notes: plain values."""
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

    def sync(self, noted: dict[str, Any]) -> None:
        """Flushes to the disk what `append` wrote until it returned `noted`.

        What it wrote later may be incomplete: a run that has to stop while it appends has its last snapshot written.
        """
        for segment in noted["segments"]:
            for path in self._paths(segment["number"]):
                sync_path(path)
        if noted["segments"]:
            sync_folder(self.folder)

    def load(self, noted: dict[str, Any]) -> None:
        """Fills the buffer as it was when `append` returned `noted`.

        Raises:
            UserError: files that are missing, damaged or of another buffer.
        """
        replay, added = self.replay, int(noted["added"])
        segments = [Segment(**entry) for entry in noted["segments"]]
        wanted = max(added - replay.buffer_size, 0)
        for segment in segments:
            follows = 0 <= segment.first <= wanted and 1 <= segment.rows <= self._segment_rows
            if not follows or not 0 <= segment.ends <= segment.rows * self._form.most:
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
        return [path for path in self.folder.glob("replay-*") if path.suffix in (".rows", ".ends", ".frames")]

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
        others = self._form.write(rows, slots, segment)
        rows_path, others_path = self._paths(segment.number)
        size, segment.rows_checksum = _append(rows_path, [rows], segment.rows_checksum)
        segment.rows, segment.rows_bytes = segment.rows + len(rows), segment.rows_bytes + size
        size, segment.ends_checksum = _append(others_path, others, segment.ends_checksum)
        segment.ends, segment.ends_bytes = segment.ends + sum(map(len, others)), segment.ends_bytes + size

    def _read(self, segment: Segment) -> None:
        rows_path, others_path = self._paths(segment.number)
        rows = _read(rows_path, self._row, segment.rows, segment.rows_bytes, segment.rows_checksum)
        others = _read(others_path, self._form.other, segment.ends, segment.ends_bytes, segment.ends_checksum)
        observations, after = self._form.read(rows, others, segment)
        steps = {"observations": observations, "next_observations": after}
        self.replay.refill(segment.first, steps | {name: rows[name] for name in PLAIN})

    def _paths(self, number: int) -> tuple[Path, Path]:
        name = f"replay-{int(number):06}"
        return self.folder / f"{name}.rows", self.folder / f"{name}{self._form.suffix}"


def _row_of(replay: CountedReplay, name: str) -> tuple[np.dtype, tuple[int, ...]]:
    array = getattr(replay, name)
    return array.dtype, array.shape[1:]


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("replay-"))


def _append(path: Path, parts: Sequence[np.ndarray], checksum: int) -> tuple[int, int]:
    """The bytes written, and the checksum of all that was."""
    compressor, written = ZstdCompressor(level=1), 0
    with path.open("ab") as file:
        for part in parts:
            content = part.reshape(-1).view(np.uint8)
            for begin in range(0, len(content), BLOCK):
                block = compressor.compress(content[begin : begin + BLOCK].data)
                file.write(block)
                written, checksum = written + len(block), zlib.crc32(block, checksum)
    return written, checksum


def _read(path: Path, record: np.dtype, count: int, size: int, checksum: int) -> np.ndarray:
    """The first `count` records, which took `size` bytes.

    Raises:
        UserError: they are not what was written.
    """
    if not 0 <= size <= path.stat().st_size:
        raise UserError(f"'{path}' is too short.")
    with path.open("rb") as file:
        content = file.read(size)
    if zlib.crc32(content) != checksum:
        raise UserError(f"'{path}' is damaged.")
    records = np.empty(count, record)
    try:
        reader = ZstdDecompressor(max_window_size=BLOCK).stream_reader(content, read_across_frames=True)
        found = reader.readinto(records.reshape(-1).view(np.uint8).data)
    except ZstdError as error:
        raise UserError(f"'{path}' cannot be decompressed: {error}") from error
    if found != records.nbytes or reader.read(1):
        raise UserError(f"'{path}' does not hold {count:,} records.")
    return records
