"""Shows the progress bar: task, visit, return, agent steps per second and time left; silent without a terminal."""

from __future__ import annotations

import time

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from isorl.envs.sequence import Visit
from isorl.experiments import terminal

REFRESH_SECONDS = 0.25


class ProgressBar:
    """Shows how far a run is.

    Args:
        total: agent steps of the run.
        done: agent steps already made by the run that this one continues.
    """

    def __init__(self, total: int, done: int = 0) -> None:
        console = terminal.console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]:>7,.0f} steps/s"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            refresh_per_second=4,
        )
        self._bar = self._progress.add_task("", total=total, completed=done, rate=0.0)
        self._started, self._done_before = time.monotonic(), done
        self._next = 0.0

    def start(self) -> None:
        """Shows the bar."""
        self._progress.start()
        self._started = time.monotonic()

    def update(self, agent_step: int, visit: Visit, visits: int, mean_return: float | None) -> None:
        """Shows where the run is; refreshes a few times a second at most."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + REFRESH_SECONDS
        rate = (agent_step - self._done_before) / max(now - self._started, 1e-9)
        shown = "" if mean_return is None else f"  return {mean_return:.1f}"
        description = f"visit {visit.number + 1}/{visits}  {visit.task.name}{shown}"
        self._progress.update(self._bar, completed=agent_step, description=description, rate=rate)

    def stop(self) -> None:
        """Removes the bar."""
        self._progress.stop()
