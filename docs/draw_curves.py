"""Draws learning curves of one task that is learned once: an arm's mean and each of its seeds.

    python -m docs.draw_curves docs/results/isometric_cnn runs/grids/isometric_cnn     first, for curves.csv
    python -m docs.draw_curves docs/results/isometric_cnn                              from curves.csv alone

The curve is the raw return of the last hundred training episodes, every 10,000 agent steps; the picture is curves.png.
"""

from __future__ import annotations

import csv
import json
import math
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from isorl.experiments.report.find_runs import find_runs

EVERY = 10_000
COLORS = ("#4c566a", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
Curves = dict[str, dict[str, list[tuple[int, float]]]]
"""arm -> seed -> [(agent step, return)]"""


def gather(grid: Path) -> Curves:
    """Reads the runs of a grid."""
    curves: Curves = defaultdict(dict)
    for run in find_runs([grid]).runs:
        curve: dict[int, tuple[int, float]] = {}
        for line in (run.folder / "metrics.jsonl").read_text().splitlines():
            row = json.loads(line)
            if row["key"] == "rollout/ep_rew_mean":
                curve[math.ceil(row["agent_step"] / EVERY)] = (row["agent_step"], row["value"])
        curves[run.arm][str(run.seed)] = [value for _, value in sorted(curve.items())]
    return curves


def write(curves: Curves, path: Path) -> None:
    """Writes curves.csv."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["arm", "seed", "agent_step", "return"])
        rows.writerows(
            [arm, seed, step, f"{value:.3f}"]
            for arm, seeds in curves.items()
            for seed, curve in seeds.items()
            for step, value in curve
        )


def read(path: Path) -> Curves:
    """Reads curves.csv."""
    curves: Curves = defaultdict(lambda: defaultdict(list))
    with path.open() as file:
        for row in csv.DictReader(file):
            curves[row["arm"]][row["seed"]].append((int(row["agent_step"]), float(row["return"])))
    return curves


def draw(curves: Curves) -> Figure:
    """Draws every seed thin and an arm's mean over its seeds thick."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for color, (arm, seeds) in zip(COLORS, curves.items(), strict=False):
        steps, values = np.moveaxis(np.array(list(seeds.values())), -1, 0)
        axes.plot(steps.T, values.T, color=color, linewidth=0.7, alpha=0.5)
        axes.plot(steps.mean(0), values.mean(0), color=color, linewidth=2, label=arm)
    axes.set(xlabel="agent steps", ylabel="return, last 100 episodes")
    axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    return figure


def main(folder: str, grid: str | None = None) -> None:
    """Writes the data, if it is told where from, and the picture."""
    data = Path(folder) / "curves.csv"
    if grid is not None:
        write(gather(Path(grid)), data)
    draw(read(data)).savefig(Path(folder) / "curves.png", dpi=150)


if __name__ == "__main__":
    main(*sys.argv[1:])
