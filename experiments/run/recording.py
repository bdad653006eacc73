"""Records measurements once for many writers: TensorBoard and metrics.jsonl both get them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import KVWriter, Logger, TensorBoardOutputFormat
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from torch.utils.tensorboard.writer import SummaryWriter

from isorl.envs.sequence import Visit


class JsonLines(KVWriter):
    """Writes metrics.jsonl: {"key", "value", "agent_step", "task", "visit"} per line; spectra are lists."""

    def __init__(self, path: Path, visit: Callable[[], Visit]) -> None:
        self._file = path.open("a")
        self._visit = visit

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Writes one line per number or spectrum; pictures and texts are TensorBoard's alone."""
        visit = self._visit()
        place = json.dumps({"agent_step": step, "task": visit.task.name, "visit": visit.number})
        for key, value in sorted(key_values.items()):
            number = _jsonable(value)
            if number is not None:
                self._file.write(f'{{"key": {json.dumps(key)}, "value": {json.dumps(number)}, {place[1:]}\n')
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


HISTOGRAM_BINS = 30
"""Bins of a spectrum in TensorBoard, of equal width, as many as it draws; its own are a tenth of the value wide."""


class TensorBoard(TensorBoardOutputFormat):
    """Writes as SB3 does, in the folder itself, but all numbers and spectra of a record as one event.

    An event each, as SB3 writes them, takes four times as long: more than to measure what they say.
    """

    def __init__(self, folder: Path) -> None:
        self.writer = SummaryWriter(log_dir=str(folder))
        self._is_closed = False

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Writes numbers, spectra (tensors become histograms), figures and texts."""
        event, others = Summary(), {}
        for key, value in sorted(key_values.items()):
            if "tensorboard" in (key_excluded[key] or ()):
                continue
            if isinstance(value, (float, int, np.number)):
                event.value.add(tag=key, simple_value=float(value))
            elif isinstance(value, torch.Tensor):
                spectrum = value[torch.isfinite(value)].double().cpu()
                if len(spectrum):
                    event.value.add(tag=key, histo=_histogram(spectrum))
            else:
                others[key] = value
        if event.value and self.writer.file_writer is not None:  # which it is once closed
            self.writer.file_writer.add_summary(event, step)
        super().write(others, {key: () for key in others}, step)  # flushes


def _histogram(x: torch.Tensor) -> HistogramProto:
    """Counts up to each limit; nothing is below the first, which so is the left end."""
    counts, limits = torch.histogram(x, HISTOGRAM_BINS)
    return HistogramProto(
        min=x.min().item(),
        max=x.max().item(),
        num=len(x),
        sum=x.sum().item(),
        sum_squares=x.square().sum().item(),
        bucket_limit=limits.tolist(),
        bucket=[0.0, *counts.tolist()],
    )


class Recorder:
    """Holds the writers of one run, and hands them what is measured.

    Attributes:
        logger: for the agent (`agent.set_logger`); its pending values are written at its own `dump`.
        visit: the visit to which records belong; the run keeps it up to date.
    """

    def __init__(self, folder: Path, visit: Visit) -> None:
        self.folder, self.visit = folder, visit
        self.tensorboard = TensorBoard(folder)
        self.jsonl = JsonLines(folder / "metrics.jsonl", lambda: self.visit)
        self.logger = Logger(str(folder), [self.tensorboard, self.jsonl])

    def record(self, values: Mapping[str, Any], step: int) -> None:
        """Writes numbers, spectra (tensors become histograms), figures, texts at once."""
        for writer in self.logger.output_formats:
            writer.write(dict(values), {key: () for key in values}, step)

    def sizes(self) -> dict[str, int]:
        """Returns for each file the bytes written so far, all of them out of this process's hands."""
        self.tensorboard.writer.flush()
        return {path.name: path.stat().st_size for path in record_files(self.folder)}

    def close(self) -> None:
        """Flushes and closes all writers."""
        self.logger.close()


def record_files(folder: Path) -> list[Path]:
    """Returns the files that grow with every record."""
    return sorted([*folder.glob("metrics.jsonl"), *folder.glob("events.out.tfevents.*")])


def cut_back(folder: Path, sizes: Mapping[str, int]) -> None:
    """Cuts every file of records back to what `Recorder.sizes` counted: a resumed run writes the rest again."""
    for path in record_files(folder):
        if path.name not in sizes:
            path.unlink()
        elif path.stat().st_size > sizes[path.name]:
            os.truncate(path, max(sizes[path.name], 0))


def _jsonable(value: Any) -> float | int | list[float] | None:
    if isinstance(value, torch.Tensor):
        return value.flatten().double().tolist()
    if isinstance(value, (bool, int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value)
    return None
