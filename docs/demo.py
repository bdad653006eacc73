"""See plasticity lost and kept: `make demo`, or `python -m docs.demo`.

Seven ways to train one network on ten tasks, each a new random labelling of 1,024 real digits, on three seeds.
Draws docs/img/demo.png and prints a table. The seeds were not used to choose any setting.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.streams import ARMS, FRESH_SEED, Run, first_last, jobs_of, network_value, play_all

SEQUENCE = "digits_random_labels"
PICTURE = Path(__file__).parent / "img" / "demo.png"
CHANCE = 0.1
NAMES = {
    "adam": "Adam",
    "layer_norm": "Adam + LayerNorm",
    "l2_init": "Adam + L2-init",
    "adamo": "AdamO",
    "maxmin": "Adam + MaxMin",
    "aei": "AEI: MaxMin + AdamO",
    "fresh": "a fresh network per task",
}
"""ReLU where nothing else is said."""
COLOURS = dict(zip(NAMES, ("C3", "C1", "C8", "C0", "C4", "C2", "0.55"), strict=True))


def verdict(first: float, last: float) -> str:
    """What the two accuracies mean, in words."""
    if last < 2 * CHANCE:
        return "hardly learns any more"
    if last < first - 0.03:
        return "learns less than at first"
    return "learns better than at first" if last > first + 0.03 else "learns as at first"


def draw(runs: Mapping[str, Sequence[Run]]) -> Figure:
    """Accuracy, dormant units and NTK condition by task, and the Jacobians' singular values after the last."""
    figure = Figure(figsize=(13, 3.9), dpi=110, layout="constrained")
    panels: list[tuple[str, Callable[[Run], list[float]]]] = [
        ("online accuracy on each task", lambda run: run["accuracy"]),
        ("dormant units after each task", lambda run: network_value(run, "dormant_units")),
        ("condition number of the NTK", lambda run: network_value(run, "ntk_condition")),
    ]
    axes = figure.subplots(1, 4)
    for place, (title, read) in zip(axes, panels, strict=False):
        for arm, done in runs.items():
            _lines(place, arm, np.array([read(run) for run in done]))
        place.set(title=title, xlabel="task (new random labels each)")
    axes[0].axhline(CHANCE, color="k", ls=":", lw=1)
    axes[0].annotate("chance", (1, CHANCE), xytext=(0, -10), textcoords="offset points", fontsize=8)
    axes[0].set_ylim(0)
    axes[2].set_yscale("log")
    _spectra(axes[3], runs)
    for place in axes:
        place.title.set_fontsize(10)
        place.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    return figure


def _lines(place: Axes, arm: str, values: np.ndarray) -> None:
    """(seeds, tasks): thin lines are seeds, the thick one is their median."""
    tasks = np.arange(1, values.shape[1] + 1)
    place.plot(tasks, values.T, color=COLOURS[arm], lw=0.5, alpha=0.4)
    place.plot(tasks, np.median(values, axis=0), color=COLOURS[arm], lw=2, label=NAMES[arm])


def _spectra(place: Axes, runs: Mapping[str, Sequence[Run]]) -> None:
    """Singular values of the hidden layers' Jacobians after the last task, from the largest to the smallest."""
    for arm, done in runs.items():
        pooled = [
            np.concatenate(
                [
                    np.atleast_1d(value)
                    for key, value in run["measured"][-1].items()
                    if key.startswith("plasticity/layer_jacobian_spectrum/") and key.count("/") == 3
                ]
            )
            for run in done
        ]
        values = np.sort(np.concatenate(pooled))[::-1]
        share = np.linspace(0, 100, len(values))
        place.plot(share, np.maximum(values, 1e-3), color=COLOURS[arm], lw=1.8)
    place.axhline(1, color="k", ls=":", lw=1)
    place.set(
        title="singular values of the layers'\nJacobians after the last task",
        xlabel="% of them, largest first",
        yscale="log",
        ylim=(0.02, None),  # what is zero drops out of sight
    )


def table(runs: Mapping[str, Sequence[Run]]) -> Table:
    """One row per arm."""
    result = Table(title=f"{SEQUENCE}: means over {len(next(iter(runs.values())))} seeds, chance is 10 %")
    result.add_column("trained with")
    for column in ("first two tasks", "last two tasks", "dormant units", "NTK condition"):
        result.add_column(column, justify="right")
    result.add_column("in words")
    for arm, done in runs.items():
        first, last = (float(values.mean()) for values in first_last(done))
        dormant = np.mean([network_value(run, "dormant_units")[-1] for run in done])
        condition = np.median([network_value(run, "ntk_condition")[-1] for run in done])
        cells = f"{first:.0%}", f"{last:.0%}", f"{dormant:.0%}", f"{condition:.1g}"
        words = "the control: nothing is carried over" if arm == "fresh" else verdict(first, last)
        result.add_row(NAMES[arm], *cells, words)
    return result


def main() -> None:
    """Trains, shows progress, draws, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=min(os.cpu_count() or 1, 8))
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()
    console, began = Console(), time.monotonic()
    runs: dict[str, dict[int, Run]] = {arm: {} for arm in ARMS}
    seeds = range(FRESH_SEED, FRESH_SEED + options.seeds)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )
    with bar:
        job = bar.add_task("training", total=len(ARMS) * options.seeds)
        jobs = jobs_of(ARMS, seeds, f"sequence={SEQUENCE}")
        for (arm, seed, *_), run in play_all(jobs, options.processes):
            runs[arm][seed] = run
            first, last = (values[0] for values in first_last([run]))
            bar.console.print(
                f"{NAMES[arm]:26} seed {seed}: {first:.0%} right on the first tasks, {last:.0%} on the last"
            )
            bar.advance(job)
    by_arm = {arm: [done[seed] for seed in seeds] for arm, done in runs.items()}
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    draw(by_arm).savefig(options.picture)
    console.print(table(by_arm))
    seconds = np.mean([run["seconds"] for done in by_arm.values() for run in done])
    console.print(f"{time.monotonic() - began:.0f} seconds in all, {seconds:.1f} of processor time a run.")
    console.print(f"The picture: {options.picture}")


if __name__ == "__main__":
    main()
