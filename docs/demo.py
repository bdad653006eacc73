"""Draws plasticity lost and kept: `make demo`, or `python -m docs.demo`.

Trains what is missing of the benchmark `demo`: seven ways to learn ten random labellings of 1,024 real digits, three
seeds that chose no setting. Then draws accuracy and the state of the networks. `python report.py runs/grids/demo` says
more about the same runs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from isorl.experiments.report.find_runs import find_runs
from isorl.experiments.report.ridge_plots import spectra_of
from isorl.experiments.report.runs import Run
from isorl.experiments.report.study import Study

TRAIN = Path(__file__).parents[1] / "train.py"
COLOURS = ("C3", "C1", "C8", "C0", "C4", "C2", "0.55")
CHANCE = 0.1
PANELS: dict[str, Callable[[Run], np.ndarray]] = {
    "online accuracy on each task": lambda run: run.online,
    "dormant units after each task": lambda run: run.diagnostics["dormant_units"],
    "condition number of the NTK": lambda run: run.diagnostics["ntk_condition"],
}
"""Title -> what is drawn of a run, one value per task."""


def draw(study: Study) -> Figure:
    """Draws the panels by task, and the Jacobians' singular values after the last one."""
    figure = Figure(figsize=(13, 3.9), dpi=110, layout="constrained")
    axes = figure.subplots(1, 4)
    for arm, colour in zip(study.arms, COLOURS, strict=True):
        runs = study.finished(study.sequences[0], arm)
        for place, read in zip(axes, PANELS.values(), strict=False):
            _lines(place, np.array([read(run) for run in runs]), colour, arm)
        _spectrum(axes[3], runs, colour)
    for place, title in zip(axes, PANELS, strict=False):
        place.set(title=title, xlabel="task (new random labels each)")
    axes[0].axhline(CHANCE, color="k", ls=":", lw=1)
    axes[0].annotate("chance", (1, CHANCE), xytext=(0, -10), textcoords="offset points", fontsize=8)
    axes[0].set_ylim(0)
    axes[2].set_yscale("log")
    axes[3].axhline(1, color="k", ls=":", lw=1)
    axes[3].set(
        title="singular values of the layers'\nJacobians after the last task",
        xlabel="% of them, largest first",
        yscale="log",
        ylim=(0.02, None),  # what is zero drops out of sight
    )
    for place in axes:
        place.title.set_fontsize(10)
        place.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    return figure


def _lines(place: Axes, values: np.ndarray, colour: str, label: str) -> None:
    """Draws (seeds, tasks): a thin line per seed, a thick one for their median."""
    tasks = np.arange(1, values.shape[1] + 1)
    place.plot(tasks, values.T, color=colour, lw=0.5, alpha=0.4)
    place.plot(tasks, np.median(values, axis=0), color=colour, lw=2, label=label)


def _spectrum(place: Axes, runs: Sequence[Run], colour: str) -> None:
    """Draws the singular values after the last visit, all seeds pooled, from the largest to the smallest."""
    values = np.sort(np.concatenate([spectra_of(run)[run.visits - 1] for run in runs]))[::-1]
    place.plot(np.linspace(0, 100, len(values)), np.maximum(values, 1e-3), color=colour, lw=1.8)


def main() -> None:
    """Trains, then draws."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo/demo.png"), help="the picture")
    options = parser.parse_args()
    done = subprocess.run([sys.executable, TRAIN, "-m", "+benchmark=demo", "hydra/launcher=here"])
    if done.returncode:
        sys.exit(done.returncode)
    runs = find_runs([Path("runs/grids/demo")]).runs
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draw(Study(runs)).savefig(options.out)
    print(f"The picture: {options.out}")


if __name__ == "__main__":
    main()
