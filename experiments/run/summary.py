"""Writes summary.json, and makes the table with which a run ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from isorl.envs.sequence import Sequence
from isorl.experiments.run.atomic_write import read_json, write_json
from isorl.experiments.run.returns import VisitReturns
from isorl.experiments.run.run_state import RunState


def write(
    path: Path, sequence: Sequence, state: RunState, seconds: float, methods: dict[str, Any]
) -> dict[str, Any]:
    """Writes and returns the summary of a finished run.

    `seconds`: of training; this run's share where `together`, as many runs, shared a process; null where their number
    was not the same throughout.
    `returns`: per visit, raw returns of the training episodes; `mean` over the visit, `end` over its last fifth,
    `curve` over each tenth of it (null where no episode ended).
    `scores`: their normalised averages (0: random agent, 1: reference; envs/scores.csv has the sources).
    `methods`: by name, `boundary` (whether it is told of switches) and `acts` (whether the run was long enough for it).
    `evaluation`: `after_visit[v][t]` is the mean return of task t after visit v.
    """
    measured = max(state.seconds, seconds)
    content = {
        "sequence": sequence.name,
        "agent_steps": sequence.agent_steps,
        "seconds": round(measured, 1),
        "together": min(state.together) if len(state.together) == 1 else None,
        "diagnostics_share_of_time": state.measuring_seconds / max(measured, 1e-9),
        "methods": methods,
        "returns": [{**visit.row(), "curve": curve(visit)} for visit in state.returns.by_visit],
        "scores": _scores(state),
        "evaluation": {"tasks": [task.name for task in sequence.tasks], "after_visit": state.evaluations},
        "diagnostics": state.diagnostics,
    }
    write_json(path, without_nan(content))
    return content


def read_summary(path: Path) -> dict[str, Any] | None:
    """Returns what `write` has written to `path`; None where there is no such file, or a damaged one."""
    content = read_json(path)
    return content if content is not None and content.get("returns") else None


CURVE_POINTS = 10
"""Parts of equal length into which a visit's learning curve is gathered."""


def curve(visit: VisitReturns) -> list[float]:
    """Returns the mean raw return in each part of the visit (CURVE_POINTS,); NaN where no episode ended."""
    length = max(visit.visit.agent_steps, 1)
    share = (
        np.array(visit.at) - visit.visit.start - 1
    ) / length  # the step at which a visit ends belongs to it
    part = np.clip((share * CURVE_POINTS).astype(int), 0, CURVE_POINTS - 1)
    returns = np.array(visit.returns)
    return [
        float(returns[part == number].mean()) if np.any(part == number) else float("nan")
        for number in range(CURVE_POINTS)
    ]


COLUMNS = {
    "dormant units": "plasticity/dormant_units/",
    "σ min": "plasticity/layer_jacobian_min/",
    "σ max": "plasticity/layer_jacobian_max/",
}
"""Columns of the table: the largest value over the networks (smallest for σ min) at the end of each visit."""


def table(content: dict[str, Any]) -> Table:
    """Returns a table of the return per visit, with the state of the networks at its end."""
    result = Table(title=f"{content['sequence']}: raw return of training episodes, by visit")
    for column in ("visit", "task", "episodes", "mean", "last fifth", *COLUMNS):
        result.add_column(column, justify="left" if column == "task" else "right")
    diagnostics = content["diagnostics"] + [{}] * len(content["returns"])
    for row, measured in zip(content["returns"], diagnostics, strict=False):
        cells = [
            str(row["visit"] + 1),
            row["task"],
            f"{row['episodes']:,}",
            _number(row["mean"]),
            _number(row["end"]),
        ]
        for title, prefix in COLUMNS.items():
            values = [
                value for key, value in measured.items() if key.startswith(prefix) and key.count("/") == 2
            ]
            extreme = min if title == "σ min" else max
            cells.append(_number(extreme(values)) if values else "")
        result.add_row(*cells)
    return result


def _scores(state: RunState) -> dict[str, float | None]:
    """Averages of the visits' normalised scores (0: random agent, 1: reference); None where a task has none."""
    rows = [visit.row() for visit in state.returns.by_visit]
    result: dict[str, float | None] = {}
    for part in ("mean_score", "end_score"):
        values = [row[part] for row in rows]
        result[part] = None if None in values else sum(values) / len(values)
    return result


def _number(value: float) -> str:
    return "none ended" if value != value else f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def without_nan(value: Any) -> Any:
    """Returns `value` with None for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and value != value else value
