"""Writes metrics.csv in the run folder: agent_step, visit, task, key, value per row."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from isorl.configs import RunConfig
from isorl.envs.sequence import Visit
from isorl.experiments.run.loggers.base import LOGGERS, RunLogger

COLUMNS = ("agent_step", "visit", "task", "key", "value")


@LOGGERS.register("csv")
class CSV(RunLogger):
    """Writes one row per number, with the columns of COLUMNS."""

    files: ClassVar[tuple[str, ...]] = ("metrics.csv",)

    def __init__(self, folder: Path, config: RunConfig, visit: Callable[[], Visit]) -> None:
        super().__init__(folder, config, visit)
        self._file = (folder / "metrics.csv").open("a", newline="")
        self._rows = csv.writer(self._file)
        if not self._file.tell():
            self._rows.writerow(COLUMNS)

    def write_numbers(self, values: dict[str, float], step: int) -> None:
        """Writes the rows of a record."""
        visit = self.visit()
        self._rows.writerows(
            (step, visit.number, visit.task.name, key, value) for key, value in sorted(values.items())
        )

    def flush(self) -> None:
        """Hands the rows to the system."""
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
