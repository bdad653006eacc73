"""Makes the table with which a grid ends: raw returns by sequence and arm, best first. report.py says the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from isorl.experiments.grid.cell import Cell
from isorl.experiments.report.runs import never_acted, of_methods

MAX_ROWS = 60
"""Rows of the table; a larger grid is for report.py."""


def table(cells: Sequence[Cell]) -> Table:
    """Returns a table with one row per sequence and arm: mean return of all visits and of the last, over its seeds."""
    scores: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    methods: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {}
    for cell in cells:
        if (content := cell.summary()) is not None:
            scores[cell.sequence, cell.arm].append(_returns(content["returns"]))
            methods[cell.sequence, cell.arm] = of_methods(content)
    result = Table(title="raw return of training episodes, mean over finished seeds")
    for column in (
        "sequence",
        "arm",
        "boundary",
        "seeds",
        "all visits",
        "lowest to highest seed",
        "last visit",
    ):
        is_name = column in ("sequence", "arm", "boundary")
        result.add_column(
            column, justify="left" if is_name else "right", overflow="fold" if is_name else "ellipsis"
        )
    order = sorted(
        scores, key=lambda key: (key[0], -np.nan_to_num(np.mean(scores[key], axis=0)[0], nan=-np.inf))
    )
    for key in order[:MAX_ROWS]:
        whole, last = np.array(scores[key]).T
        spread = f"{whole.min():.4g} to {whole.max():.4g}" if len(whole) > 1 else ""
        (boundary, idle), (sequence, arm) = methods[key], key
        marked = f"{arm} ({never_acted(idle)})" if idle else arm
        result.add_row(
            sequence, marked, boundary, str(len(whole)), f"{whole.mean():.4g}", spread, f"{last.mean():.4g}"
        )
    if len(order) > MAX_ROWS:
        result.add_row("", f"... and {len(order) - MAX_ROWS} more")
    return result


def _returns(visits: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Means over all visits and of the last; NaN where a visit has no episode."""
    means = [float("nan") if row["mean"] is None else float(row["mean"]) for row in visits]
    return float(np.mean(means)), means[-1]
