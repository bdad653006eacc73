"""Tables of runs for notebooks: one row per run, per visit, per measurement."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isorl.configs import UserError
from isorl.experiments.report.find_runs import find_runs
from isorl.experiments.report.runs import Run, records

LIBRARIES = ("pandas", "polars", "columns")
"""What tables may be made of, in the order of preference; columns: a mapping from names to lists."""
RUN_COLUMNS = (
    "run",
    "sequence",
    "arm",
    "seed",
    "kind",
    "state",
    "boundary",
    "never_acted",
    "agent_steps",
    "seconds",
    "mean_return",
    "folder",
)
VISIT_COLUMNS = ("run", "visit", "task", "start", "length", "mean_return", "end_return", "score")
MEASUREMENT_COLUMNS = ("run", "key", "value", "agent_step", "task", "visit")


@dataclass(frozen=True)
class Results:
    """Holds three tables that share the column `run`.

    Attributes:
        runs: one row per run: sequence, arm, seed, kind ("arm" or a reference), state, whether its methods are told
            of switches ("informed", "agnostic"), methods that it was too short for, agent steps, seconds, the mean
            over its visits of their mean raw return, folder.
        visits: one row per run and visit: task, first agent step, length, mean raw return, that of the last fifth,
            normalised score.
        measurements: one row per number that was logged: key, value, agent step, task, visit.
    """

    runs: Any
    visits: Any
    measurements: Any


def results(*runs: str | Path, library: str | None = None) -> Results:
    """Returns tidy tables of runs: pandas' or polars' data frames where one is installed, else plain columns.

    >>> import isorl
    >>> tables = isorl.results("runs/example", library="columns")
    >>> tables.runs["sequence"], tables.runs["seed"]
    (['catch_permuted-smoke'], [0])
    >>> tables.visits["visit"], tables.visits["start"]
    ([0, 1], [0.0, 64.0])
    >>> norms = [value for key, value in zip(tables.measurements["key"], tables.measurements["value"])
    ...          if key == "plasticity/weight_norm/actor"]
    >>> len(norms)
    3

    Args:
        runs: grids, run folders, folders of either.
        library: "pandas", "polars" or "columns"; None: the first that is installed.

    Raises:
        UserError: there is no run, or the library is not installed.
    """
    make = _maker(library)
    found = find_runs([Path(run) for run in runs]).runs
    names = _names(found)
    return Results(
        runs=make(_columns(RUN_COLUMNS, (_run_row(run, names[run.id]) for run in found))),
        visits=make(
            _columns(VISIT_COLUMNS, (row for run in found for row in _visit_rows(run, names[run.id])))
        ),
        measurements=make(
            _columns(
                MEASUREMENT_COLUMNS, (row for run in found for row in _measurement_rows(run, names[run.id]))
            )
        ),
    )


def _maker(library: str | None) -> Any:
    """Returns what makes a table of a mapping from names to lists."""
    if library not in (None, *LIBRARIES):
        raise UserError(f"There is no library '{library}' for tables; choose {', '.join(LIBRARIES)}.")
    for name in [library] if library else LIBRARIES:
        if name == "columns":
            return dict
        try:
            return importlib.import_module(str(name)).DataFrame
        except ImportError:
            if library:
                raise UserError(f"'{library}' is not installed: pip install {library}.") from None
    raise AssertionError("columns need no library")


def _names(runs: Iterable[Run]) -> dict[str, str]:
    """Returns a run's name in the tables by its id: that of its folder, or the whole path where two share a name."""
    folders = {run.id: run.folder for run in runs}
    last = [folder.name for folder in folders.values()]
    return {
        key: folder.name if last.count(folder.name) == 1 else str(folder) for key, folder in folders.items()
    }


def _columns(names: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> dict[str, list[Any]]:
    made = list(rows)
    return {name: [row[number] for row in made] for number, name in enumerate(names)}


def _run_row(run: Run, name: str) -> tuple[Any, ...]:
    mean = float(np.mean(run.online)) if run.visits else float("nan")
    place = (name, run.sequence, run.arm, run.seed, run.kind, str(run.state))
    methods = (run.boundary, " ".join(run.idle))
    return (*place, *methods, run.agent_steps, run.seconds, mean, str(run.folder))


def _visit_rows(run: Run, name: str) -> Iterator[tuple[Any, ...]]:
    for visit in range(run.visits):
        numbers = (column[visit] for column in (run.start, run.length, run.online, run.end, run.score))
        yield (name, visit, run.tasks[run.task[visit]], *map(float, numbers))


def _measurement_rows(run: Run, name: str) -> Iterator[tuple[Any, ...]]:
    for record in records(run.folder / "metrics.jsonl"):
        if not isinstance(record["value"], list):  # spectra are no single numbers
            yield _measurement(name, record)


def _measurement(name: str, record: Mapping[str, Any]) -> tuple[Any, ...]:
    keys = ("key", "value", "agent_step", "task", "visit")
    return (name, *(record[key] for key in keys))
