"""Makes what TensorBoard shows at first sight: a layout of charts, the returns with their switches, the matrix."""

from __future__ import annotations

import re
from collections.abc import Sequence as SequenceOf
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from stable_baselines3.common.logger import Figure

from isorl.envs.sequence import Sequence
from isorl.experiments.run.returns import VisitReturns

MAX_NUMBERED_CELLS = 100
"""Cells of the matrix up to which the picture has their numbers; the table beside it always does."""
MAX_NAMED_VISITS = 8
"""Visits up to which there is room for the names of their tasks."""


def layout(sequence: Sequence, networks: SequenceOf[str]) -> dict[str, dict[str, list[Any]]]:
    """Returns the custom-scalars page: returns and switches first, then plasticity, one chart per question."""
    names = "|".join(sorted({re.escape(task.name.split("-")[0]) for task in sequence.tasks}))

    def charts(*metrics: tuple[str, str]) -> dict[str, list[Any]]:
        return {
            title: ["Multiline", [f"plasticity/{metric}/({'|'.join(networks)})$"]]
            for title, metric in metrics
        }

    return {
        "Learning": {
            "return of training episodes, by task": ["Multiline", [rf"^return/({names})"]],
            "task (a step is a switch)": ["Multiline", ["^task/index$"]],
            "evaluation of every task after every visit": ["Multiline", ["^eval/"]],
        },
        "Plasticity": charts(
            ("dormant units (healthy: low)", "dormant_units"),
            ("largest singular value of the layer Jacobians (healthy: near 1)", "layer_jacobian_max"),
            ("smallest singular value of the layer Jacobians (healthy: near 1)", "layer_jacobian_min"),
            ("isometry penalty: Gram deviation of the weights (healthy: low)", "gram_deviation"),
            ("NTK condition number (healthy: low)", "ntk_condition"),
            ("effective rank of the features (healthy: high)", "feature_effective_rank"),
        ),
    }


def returns_figure(visits: SequenceOf[VisitReturns]) -> Figure:
    """Draws every episode's raw return against the agent step; switches as lines."""
    picture, axes = _picture(9, 3, left=0.7, bottom=0.5)
    for visit in visits:
        colour = f"C{visit.visit.task.index % 10}"
        axes.plot(visit.at, visit.returns, ".", ms=2, alpha=0.25, color=colour)
        axes.plot(*_smoothed(visit.at, visit.returns), color=colour, lw=1.5)
        axes.axvline(visit.visit.start, color="0.7", lw=0.8, zorder=0)
        task = visit.visit.task
        name = task.name if len(visits) <= MAX_NAMED_VISITS else str(task.index)
        axes.annotate(name, (visit.visit.start, 1.0), xycoords=("data", "axes fraction"), fontsize=7,
                      xytext=(2, -9), textcoords="offset points", color=colour,
                      parse_math=False)  # fmt: skip
    axes.set(xlabel="agent step", ylabel="raw return")
    return Figure(picture, close=True)


def _smoothed(at: list[int], returns: list[float], window: int = 25) -> tuple[np.ndarray, np.ndarray]:
    if len(returns) < 2:
        return np.array(at), np.array(returns)
    width = min(window, len(returns))
    kernel = np.ones(width) / width
    return np.convolve(at, kernel, "valid"), np.convolve(returns, kernel, "valid")


def matrix_figure(names: SequenceOf[str], rows: SequenceOf[SequenceOf[float]]) -> Figure:
    """Draws the mean return of each task (columns) after each visit (rows), coloured within each column."""
    values = np.array(rows, dtype=float)
    low, high = np.fmin.reduce(values), np.fmax.reduce(values)  # NaN where a task has no figure
    shade = (values - low) / np.where(high > low, high - low, 1)
    numbered = values.size <= MAX_NUMBERED_CELLS
    width, height = (0.9, 0.35) if numbered else (0.25, 0.2)
    picture, axes = _picture(1.5 + width * len(names), 1 + height * len(rows), left=0.9, bottom=0.8)
    axes.imshow(shade, cmap="Blues", vmin=0, vmax=1.6 if numbered else 1, aspect="auto")
    if numbered:
        for (row, column), value in np.ndenumerate(values):
            axes.text(column, row, f"{value:.4g}", ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8, parse_math=False)
    axes.set_yticks(range(len(rows)), [str(visit + 1) for visit in range(len(rows))], fontsize=8)
    axes.set(ylabel="after visit", xlabel="evaluated task")
    return Figure(picture, close=True)


def _picture(width: float, height: float, left: float, bottom: float) -> tuple[Picture, Axes]:
    """A figure and its axes; all in inches. Fixed margins: to find out their size takes as long as drawing."""
    picture = Picture(figsize=(width, height), dpi=100)
    place = (left / width, bottom / height, (width - left - 0.2) / width, (height - bottom - 0.2) / height)
    return picture, picture.add_axes(place)


def matrix_text(names: SequenceOf[str], rows: SequenceOf[SequenceOf[float]]) -> str:
    """Returns the matrix of `matrix_figure` as a Markdown table."""
    titles = [name.replace("|", "\\|") for name in names]
    lines = ["| after visit | " + " | ".join(titles) + " |", "|---" * (len(names) + 1) + "|"]
    lines += [
        f"| {visit + 1} | " + " | ".join(f"{v:.4g}" for v in row) + " |" for visit, row in enumerate(rows)
    ]
    return "\n".join(lines)
