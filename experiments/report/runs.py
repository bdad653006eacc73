"""Reads what a report must know of one run: from summary.json, or metrics.jsonl where it is not finished."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from isorl.experiments.grid.cell import State
from isorl.experiments.run.summary import CURVE_POINTS

Array = np.ndarray
NAN = float("nan")
MAIN_NETWORKS = ("actor", "q", "classifier")
"""Names of the network that acts, whose diagnostics are reported."""


@dataclass
class Run:
    """Holds what is known of one run: V visits so far, P points of a visit's curve, T tasks; NaN is not measured.

    Attributes:
        id: identity of the cell; its folder where it is none.
        fresh: id of its fresh reference; random: of its random one. "" for none.
        boundary: "informed" where a method is told when the task switches, "agnostic" where none is; "": unknown.
        idle: methods that it was too short for.
        notes: what cannot be shown of it, and why.
        is_unreadable: whether its files are damaged, or of another version.
    """

    id: str
    folder: Path
    sequence: str
    arm: str
    seed: int
    kind: str = "arm"
    fresh: str = ""
    random: str = ""
    state: State = State.FINISHED
    agent_steps: int = 0
    seconds: float = NAN  # of training; its share where runs share a process
    runs_in_process: int | None = None  # None: unknown
    tasks: tuple[str, ...] = ()
    task: Array = field(default_factory=lambda: np.empty(0, dtype=int))  # (V,)
    start: Array = field(default_factory=lambda: np.empty(0))  # (V,) agent steps
    length: Array = field(default_factory=lambda: np.empty(0))  # (V,) agent steps
    online: Array = field(default_factory=lambda: np.empty(0))  # (V,) mean raw return
    end: Array = field(default_factory=lambda: np.empty(0))  # (V,) over the last fifth
    score: Array = field(default_factory=lambda: np.empty(0))  # (V,) normalised `online`
    curve: Array | None = None  # (V, P)
    evaluation: Array | None = None  # (V, T)
    diagnostics: dict[str, Array] = field(default_factory=dict)  # metric -> (V,), of the acting network
    boundary: str = ""
    idle: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    is_unreadable: bool = False

    @property
    def visits(self) -> int:
        """The number of visits so far, V."""
        return len(self.online)

    @property
    def has_no_returns(self) -> bool:
        """Whether it was run, to its end or until it failed, and every return of it is NaN or infinite."""
        return self.visits > 0 and self.state is not State.STARTED and not np.isfinite(self.online).any()

    @property
    def own_seconds(self) -> float:
        """The time of training in seconds; NaN where the process was shared, of which no run has a part of its own."""
        return self.seconds if self.runs_in_process == 1 else NAN

    @property
    def microseconds_per_step(self) -> float:
        """The wall time per agent step, diagnostics and evaluations included; NaN where `own_seconds` is."""
        return 1e6 * self.own_seconds / self.agent_steps if self.agent_steps else NAN


def read(run: Run) -> Run:
    """Fills in what the folder of `run` holds; returns `run`."""
    summary = run.folder / "summary.json"
    if summary.is_file():
        run.state = State.FINISHED
        from_summary(run, json.loads(summary.read_text()))
    else:
        from_metrics(run)
    return run


def from_summary(run: Run, content: Mapping[str, Any]) -> None:
    """Fills in what the summary of a finished run says."""
    rows = content["returns"]
    run.agent_steps, run.seconds = rows[-1]["start"] + rows[-1]["agent_steps"], content["seconds"]
    run.runs_in_process = content.get("together")
    run.boundary, run.idle = of_methods(content)
    run.task = np.array([row["task_index"] for row in rows])
    run.tasks = _names((row["task_index"], row["task"]) for row in rows)
    run.start, run.length = _numbers(rows, "start"), _numbers(rows, "agent_steps")
    run.online, run.end, run.score = (
        _numbers(rows, "mean"),
        _numbers(rows, "end"),
        _numbers(rows, "mean_score"),
    )
    if "curve" in rows[0]:
        run.curve = np.array([row["curve"] for row in rows], dtype=float)
    elif run.kind != "random":
        run.notes.append("no learning curve: made before summaries held one")
    evaluation = np.array(content.get("evaluation", {}).get("after_visit", []), dtype=float)
    run.evaluation = evaluation if evaluation.size else None
    run.diagnostics = _main_network(content["diagnostics"])


def of_methods(summary: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Returns `boundary` and `idle` of a run, see `Run`, from its summary."""
    methods = summary.get("methods")
    if methods is None:  # of an earlier version
        return "", ()
    acting = {name: method for name, method in methods.items() if method["acts"]}
    informed = any(method["boundary"] == "informed" for method in acting.values())
    return "informed" if informed else "agnostic", tuple(sorted(methods.keys() - acting.keys()))


def never_acted(idle: Iterable[str]) -> str:
    """Returns the mark of an arm whose methods `idle` a run was too short for; nothing where there is none."""
    return "".join(f"{name} never acted; " for name in idle).rstrip("; ")


def _names(pairs: Iterable[tuple[int, str]]) -> tuple[str, ...]:
    return tuple(name for _, name in sorted(dict(pairs).items()))


def _numbers(rows: Iterable[Mapping[str, Any]], key: str) -> Array:
    return np.array([row.get(key) for row in rows], dtype=float)  # None becomes NaN


def _main_network(measured: list[dict[str, float | None]]) -> dict[str, Array]:
    """By metric (V,): the keys plasticity/<metric>/<network> of the network that acts."""
    keys = {
        key for row in measured for key in row if key.count("/") == 2 and key.split("/")[2] in MAIN_NETWORKS
    }
    return {
        key.split("/")[1]: np.array([row.get(key) for row in measured], dtype=float) for key in sorted(keys)
    }


def records(metrics: Path, containing: str = "") -> Iterator[dict[str, Any]]:
    """Yields the records of metrics.jsonl whose line has `containing` in it; a torn last line is left out."""
    if metrics.is_file():
        with metrics.open() as file:
            for line in file:
                if containing in line and line.endswith("}\n"):
                    yield json.loads(line)


def from_metrics(run: Run) -> None:
    """Fills in what is known of a run that is not finished: its visits so far, the last perhaps in part."""
    rows = [row for row in records(run.folder / "metrics.jsonl") if not isinstance(row["value"], list)]
    if not rows:
        run.notes.append("nothing measured yet")
        return
    run.notes.append("not finished: its last visit may be a part of one")
    visits = range(max(row["visit"] for row in rows) + 1)
    returns = [row for row in rows if row["key"].startswith("return/")]
    by_visit = [[row for row in returns if row["visit"] == visit] for visit in visits]
    names = [next((row["task"] for row in rows if row["visit"] == visit), "") for visit in visits]
    run.tasks = tuple(dict.fromkeys(names))
    run.task = np.array([run.tasks.index(name) for name in names])
    run.start = np.array(
        [min((r["agent_step"] for r in rows if r["visit"] == v), default=NAN) for v in visits]
    )
    run.agent_steps = max(row["agent_step"] for row in rows)
    run.length = np.diff(np.append(run.start, run.agent_steps))
    run.online = np.array([_mean([row["value"] for row in found]) for found in by_visit])
    run.end = np.full(len(run.online), NAN)
    run.score = np.full(len(run.online), NAN)
    run.curve = np.array(
        [_curve(found, *span) for found, *span in zip(by_visit, run.start, run.length, strict=True)]
    )
    _last_of_visits(run, rows, len(visits))


def _last_of_visits(run: Run, rows: list[dict[str, Any]], visits: int) -> None:
    """Takes what is written once at the end of a visit: its return there, and diagnostics."""
    for row in rows:
        kind, *rest = row["key"].split("/")
        if kind == "plasticity" and len(rest) == 2 and rest[1] in MAIN_NETWORKS:
            run.diagnostics.setdefault(rest[0], np.full(visits, NAN))[row["visit"]] = row["value"]
        elif row["key"].startswith("visit/return_end/"):
            run.end[row["visit"]] = row["value"]
        elif row["key"].startswith("visit/return_mean/"):
            run.online[row["visit"]] = row["value"]


def _curve(rows: list[dict[str, Any]], start: float, length: float) -> list[float]:
    part = [
        min(int((row["agent_step"] - start) / max(length, 1) * CURVE_POINTS), CURVE_POINTS - 1)
        for row in rows
    ]
    values = [row["value"] for row in rows]
    return [
        _mean([v for v, p in zip(values, part, strict=True) if p == point]) for point in range(CURVE_POINTS)
    ]


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else NAN
