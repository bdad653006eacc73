"""Records measurements once for many writers: metrics.jsonl, the run's own record, and its loggers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import KVWriter, Logger

from isorl.configs import RunConfig
from isorl.envs.sequence import Visit
from isorl.experiments.run.loggers import LOGGERS, Description, start


class JsonLines(KVWriter):
    """Writes metrics.jsonl: {"key", "value", "agent_step", "task", "visit"} per line; spectra are lists."""

    def __init__(self, path: Path, visit: Callable[[], Visit]) -> None:
        self._file = path.open("a")
        self._visit = visit

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Writes one line per number or spectrum; pictures and texts are the loggers' alone."""
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


class Recorder:
    """Holds the writers of one run, and hands them what is measured.

    Attributes:
        logger: for the agent (`agent.set_logger`); its pending values are written at its own `dump`.
        visit: the visit to which records belong; the run keeps it up to date.
    """

    def __init__(self, folder: Path, config: RunConfig, visit: Visit) -> None:
        self.folder, self.visit = folder, visit
        self.loggers = [
            start(name, folder, config, lambda: self.visit) for name in dict.fromkeys(config.logger)
        ]
        jsonl = JsonLines(folder / "metrics.jsonl", lambda: self.visit)
        self.logger = Logger(str(folder), [*self.loggers, jsonl])

    def describe(self, description: Description) -> None:
        """Tells the loggers what is known of the run before it learns."""
        for logger in self.loggers:
            logger.describe(description)

    def record(self, values: Mapping[str, Any], step: int) -> None:
        """Writes numbers, spectra (tensors become histograms), figures, texts at once."""
        for writer in self.logger.output_formats:
            writer.write(dict(values), {key: () for key in values}, step)

    def sizes(self) -> dict[str, int]:
        """Returns for each file the bytes written so far, all of them out of this process's hands."""
        for logger in self.loggers:
            logger.flush()
        return {path.name: path.stat().st_size for path in record_files(self.folder)}

    def close(self) -> None:
        """Flushes and closes all writers."""
        self.logger.close()


def record_files(folder: Path) -> list[Path]:
    """Returns the files that grow with every record."""
    patterns = ["metrics.jsonl", *(pattern for logger in LOGGERS.values() for pattern in logger.files)]
    return sorted(path for pattern in patterns for path in folder.glob(pattern))


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
