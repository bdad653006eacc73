"""What a grid will cost, said before it starts: cells, jobs, agent steps, time of one core and on the clock.

A run that shares its process with others needs a fraction of the time that it needs alone. So a speed is that of a
whole job: agent steps per second of all its runs. It comes from finished cells of about as many runs together, of the
same arm, else of the same sequence. Where there is none, as many agents as the job has cells train for two seconds on
the first task and are thrown away; diagnostics and evaluations come on top. Where that fails there is no estimate: the
cells themselves may fail or succeed.
"""

from __future__ import annotations

import heapq
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from isorl.configs import RunConfig, UserError
from isorl.experiments.grid.cell import CANDIDATE, Cell
from isorl.experiments.run.dry_run import agent_steps_per_second
from isorl.experiments.run.experiment import build
from isorl.experiments.terminal import duration, explain, say, wrapped

Speed = float  # agent steps per second; NaN where it could not be measured
Place = tuple[str, ...]  # (sequence, arm), or (sequence,) for any arm
Known = dict[Place, dict[int, Speed]]  # runs in a process -> their speed
RANDOM_SECONDS = 5.0
"""Seconds that a random agent is taken to need: it plays a fixed number of episodes."""
ALIKE = 1.5
"""Jobs of which one has up to this many times the runs of the other are taken to be equally fast."""
MAX_ROWS = 40
"""Rows of the table; the sentence below it has the cost of all."""


@dataclass(frozen=True)
class Job:
    """Holds cells that share a process, and the speed at which they go on."""

    cells: Sequence[Cell]
    speed: Speed

    @property
    def sequence(self) -> str:
        """The name of the sequence that all its cells learn."""
        return self.cells[0].sequence

    @property
    def learns(self) -> bool:
        """Whether it makes agent steps that are worth counting: a random agent's are not."""
        return self.cells[0].kind != "random"

    @property
    def is_measured(self) -> bool:
        """Whether its speed is known."""
        return not math.isnan(self.speed)

    @property
    def steps(self) -> int:
        """The number of agent steps until every cell is finished."""
        return sum(cell.agent_steps - cell.steps_done() for cell in self.cells)

    @property
    def seconds(self) -> float:
        """The time of one core until every cell is finished, in seconds."""
        return self.steps / self.speed


def measured_speed(configs: Sequence[RunConfig]) -> Speed:
    """Trains runs that share a process for two seconds; returns their agent steps per second."""
    runs = [build(config) for config in configs]
    try:
        return agent_steps_per_second(runs)
    finally:
        for run in runs:
            run.env.close()


def forecast(
    cells: Iterable[Cell], jobs: Iterable[Sequence[Cell]], measure: Callable[[Sequence[Cell]], Speed]
) -> list[Job]:
    """Returns the jobs with their speeds, taken from finished `cells`, else measured once per sequence and size.

    A speed is NaN, with a message, where `measure` raises anything but a UserError: other cells may not fail so.
    """
    jobs = list(jobs)
    known = _past({job[0].sequence for job in jobs}, cells)
    return [Job(job, _speed(job, known, measure)) for job in jobs]


def _speed(job: Sequence[Cell], known: Known, measure: Callable[[Sequence[Cell]], Speed]) -> Speed:
    cell, size = job[0], len(job)
    if cell.kind == "random":
        return cell.agent_steps / RANDOM_SECONDS
    for place in _places(cell):
        if (speed := _of_size(known[place], size)) is not None:
            return speed
    arm, sequence = _places(cell)
    try:
        speed = known[sequence][size] = measure(job)
    except UserError:
        raise
    except Exception as error:  # of an environment or a method; it says nothing of other arms
        reason = f"{type(error).__name__}: {explain(error)}"
        say(f"The speed of {cell.sequence} {cell.arm} is not known, a trial failed: {reason}")
        speed = known[arm][size] = math.nan
    return speed


def _places(cell: Cell) -> tuple[Place, Place]:
    """Where its speed is looked for; the candidates of an arm are equally fast."""
    return (cell.sequence, cell.arm.partition(CANDIDATE)[0]), (cell.sequence,)


def _of_size(speeds: Mapping[int, Speed], size: int) -> Speed | None:
    """The speed of the jobs that are most like one of `size` runs; None where none is."""
    unlike, nearest = min(((max(size, other) / min(size, other), other) for other in speeds), default=(0, 0))
    return speeds[nearest] if 0 < unlike <= ALIKE else None


def _past(sequences: set[str], cells: Iterable[Cell]) -> Known:
    """From the finished cells of these sequences."""
    known: Known = defaultdict(dict)
    for cell in cells:
        if cell.sequence in sequences and cell.kind != "random":
            content = cell.summary() or {}
            if size := content.get("together"):  # else made before summaries said it
                for place in _places(cell):
                    # `seconds` is the run's share of its process, so that this is the speed of all who shared it
                    known[place].setdefault(size, content["agent_steps"] / max(content["seconds"], 1e-3))
    return known


def at_once(launcher: DictConfig) -> int | None:
    """Returns how many jobs the launcher runs at a time; None where only the cluster knows."""
    target = str(launcher.get("_target_", "")).lower()
    if "basic" in target:
        return 1
    if "joblib" in target:
        jobs = int(launcher.n_jobs)
        return jobs if jobs > 0 else (os.cpu_count() or 1) + 1 + jobs
    return launcher.get("array_parallelism")


def clock(jobs: Sequence[Job], workers: int) -> float:
    """Returns the seconds until the last job ends, where each worker takes the next job as soon as it is free."""
    free = [0.0] * min(workers, len(jobs))
    for job in jobs:
        heapq.heapreplace(free, free[0] + job.seconds)
    return max(free)


def show(
    name: str, cells: Sequence[Cell], jobs: Sequence[Job], workers: int | None, console: Console
) -> None:
    """Prints the cost of `jobs`, which are what is left to do of `cells`."""
    left = sum(len(job.cells) for job in jobs)
    if jobs:
        console.print(table(f"{name}: {len(cells)} cells, {len(cells) - left} finished before", jobs))
    console.print(wrapped(f"Cost: {sentence(jobs, workers)}"), soft_wrap=True)


def table(title: str, jobs: Sequence[Job]) -> Table:
    """Returns a table with one row per sequence: most arms of a sequence are equally fast as far as is known."""
    result = Table(title=title)
    for column in ("sequence", "cells", "jobs", "agent steps", "steps/s", "core time"):
        result.add_column(column, justify="left" if column == "sequence" else "right")
    rows: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        rows[job.sequence].append(job)
    for sequence, row in list(rows.items())[:MAX_ROWS]:
        cells = sum(len(job.cells) for job in row)
        result.add_row(sequence, str(cells), str(len(row)), *_steps_and_rate(row), _core_time(row))
    if len(rows) > MAX_ROWS:
        result.add_row(f"... and {len(rows) - MAX_ROWS} more")
    return result


def _steps_and_rate(jobs: Iterable[Job]) -> tuple[str, str]:
    """Of those that learn; empty where none does."""
    learning = [job for job in jobs if job.learns]
    measured = [job for job in learning if job.is_measured]
    steps, seconds = sum(job.steps for job in learning), sum(job.seconds for job in measured)
    rate = f"{sum(job.steps for job in measured) / seconds:,.0f}" if seconds else ""
    return f"{steps:,}" if steps else "", rate


def _core_time(jobs: Sequence[Job]) -> str:
    measured = [job for job in jobs if job.is_measured]
    if not measured:
        return "not measured"
    more = "" if len(measured) == len(jobs) else "more than "
    return more + duration(sum(job.seconds for job in measured))


def sentence(jobs: Sequence[Job], workers: int | None) -> str:
    """Says the cost of `jobs` in one sentence."""
    if not jobs:
        return "nothing, every cell is finished."
    cells, steps = sum(len(job.cells) for job in jobs), sum(job.steps for job in jobs if job.learns)
    packs = f" in {len(jobs)} {'jobs' if len(jobs) > 1 else 'job'}" if len(jobs) < cells else ""
    measured = sum(job.is_measured for job in jobs)
    total = f"{_core_time(jobs)} of one core" if measured else "time not measured"
    if workers and measured == len(jobs):
        total += f", about {duration(clock(jobs, workers))} with {workers} at a time"
    return f"{cells} cells{packs}, {steps:,} agent steps, {total}; evaluations come on top."
