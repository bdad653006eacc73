"""What a grid will cost, said before it starts: cells, agent steps, hours of one core.

Speeds come from finished cells of the same arm, else of the same sequence; where there is none, an agent that is then
thrown away trains for two seconds on the first task, and diagnostics and evaluations come on top.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape  # an arm such as method=[redo] is no markup
from rich.table import Table

from agents.grid.cell import Cell, State
from agents.run.experiment import build
from agents.run.plan import agent_steps_per_second, duration
from configs import RunConfig

Speed = float  # agent steps per second
Row = tuple[str, str]  # sequence, arm
RANDOM_SECONDS = 5.0
"""A random agent plays a fixed number of episodes; seconds rather than minutes."""


def measured_speed(config: RunConfig) -> Speed:
    """Of two seconds of training."""
    parts = build(config)
    try:
        return agent_steps_per_second(parts)
    finally:
        parts.env.close()


def speeds(cells: Sequence[Cell], measure: Callable[[Cell], Speed]) -> dict[Row, Speed]:
    """Speed of each row: its finished cells', else another's of the sequence, else `measure` of its first cell."""
    found: dict[Row, Speed] = {}
    of_sequence: dict[str, Speed] = {}
    for cell in sorted(cells, key=lambda cell: cell.state() is not State.FINISHED):  # the finished first
        row = (cell.sequence, cell.arm)
        if cell.kind == "random":
            found[row] = cell.agent_steps / RANDOM_SECONDS
        elif row not in found:
            if (past := _past_speed(cell)) is None:
                found[row] = of_sequence.get(cell.sequence) or measure(cell)
            else:
                found[row] = past
            of_sequence.setdefault(cell.sequence, found[row])
    return found


def _past_speed(cell: Cell) -> Speed | None:
    if cell.state() is not State.FINISHED:
        return None
    content: dict[str, Any] = json.loads((cell.folder / "summary.json").read_text())
    return content["agent_steps"] / max(content["seconds"], 1e-3)


def seconds_left(cells: Iterable[Cell], speed: dict[Row, Speed]) -> float:
    """Of one core, until every cell is finished."""
    return sum((cell.agent_steps - cell.steps_done()) / speed[cell.sequence, cell.arm] for cell in cells)


def at_once(launcher: DictConfig) -> int | None:
    """Cells that the launcher runs at a time; None where only the cluster knows."""
    target = str(launcher.get("_target_", "")).lower()
    if "basic" in target:
        return 1
    if "joblib" in target:
        jobs = int(launcher.n_jobs)
        return jobs if jobs > 0 else (os.cpu_count() or 1) + 1 + jobs
    return launcher.get("array_parallelism")


def show(
    name: str, cells: Sequence[Cell], speed: dict[Row, Speed], workers: int | None, console: Console
) -> None:
    """Prints the cost."""
    left = [cell for cell in cells if cell.state() is not State.FINISHED]
    table = Table(title=f"{name}: {len(cells)} cells, {len(cells) - len(left)} finished before")
    for column in ("sequence", "arm", "to run", "agent steps each", "steps/s", "core time"):
        table.add_column(column, justify="left" if column in ("sequence", "arm") else "right")
    for row in dict.fromkeys((cell.sequence, cell.arm) for cell in cells):
        mine = [cell for cell in left if (cell.sequence, cell.arm) == row]
        if mine:
            each = f"{mine[0].agent_steps:,}" if mine[0].kind != "random" else ""
            rate = f"{speed[row]:,.0f}" if mine[0].kind != "random" else ""
            table.add_row(*map(escape, row), str(len(mine)), each, rate, duration(seconds_left(mine, speed)))
    if left:
        console.print(table)
    console.print(f"Cost: {sentence(left, speed, workers)}", highlight=False, soft_wrap=True)


def sentence(left: Sequence[Cell], speed: dict[Row, Speed], workers: int | None) -> str:
    """The cost in one sentence."""
    if not left:
        return "nothing, every cell is finished."
    total = seconds_left(left, speed)
    steps = sum(cell.agent_steps - cell.steps_done() for cell in left if cell.kind != "random")
    wall = f", about {duration(total / min(workers, len(left)))} with {workers} at a time" if workers else ""
    return f"{len(left)} cells, {steps:,} agent steps, {duration(total)} of one core{wall}; evaluations come on top."
