"""Draws finished runs of one sequence side by side: return by visit, and the state of the networks.

    python docs/draw_comparison.py docs/img/nine_rooms.png runs/nine_rooms/*/*

Runs that differ only in their seed are one arm: thin lines are seeds, the thick one is their mean.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from omegaconf import OmegaConf

Run = dict[str, Any]


def arm_of(folder: Path) -> str:
    """What distinguishes the run, apart from its seed."""
    config = OmegaConf.load(folder / "config.yaml")
    parts = [config.network.activation + (" + LayerNorm" if config.network.layer_norm else "")]
    parts += [config.optimizer.name, *config.method]
    names = {
        "relu": "ReLU",
        "tanh": "tanh",
        "maxmin": "MaxMin",
        "adam": "Adam",
        "adamw": "AdamW",
        "adamo": "AdamO",
    }
    label = " + ".join(names.get(part, part) for part in parts)
    return "AEI: MaxMin + AdamO" if label == "MaxMin + AdamO" else label


def largest(metric: str) -> Callable[[Run], list[float]]:
    """Per visit, the largest value of `metric` over the hidden layers: those whose units are counted."""

    def read(run: Run) -> list[float]:
        values = []
        for row in run["diagnostics"]:
            layers = [key.split("/")[2:] for key in row if key.startswith("plasticity/dormant_units/")]
            hidden = ["/".join(layer) for layer in layers if len(layer) == 2]
            values.append(max(row[f"plasticity/{metric}/{layer}"] for layer in hidden))
        return values

    return read


PANELS: tuple[tuple[str, Callable[[Run], list[float]]], ...] = (
    ("raw return, last fifth of each visit", lambda run: [row["end"] for row in run["returns"]]),
    (
        "largest singular value\nof the hidden layers' Jacobians",
        largest("layer_jacobian_max"),
    ),
    ("dormant units, worst layer", largest("dormant_units")),
)


def draw(folders: list[Path]) -> Figure:
    """The figure: one panel per question, one colour per arm."""
    arms: dict[str, list[Run]] = defaultdict(list)
    for folder in folders:
        arms[arm_of(folder)].append(json.loads((folder / "summary.json").read_text()))
    figure = Figure(figsize=(12, 3.4), dpi=120, layout="constrained")
    for axes, (title, read) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        for colour, (arm, runs) in enumerate(sorted(arms.items())):
            _draw_arm(axes, f"C{colour}", f"{arm} ({len(runs)} seeds)", [read(run) for run in runs])
        axes.set(title=title, xlabel="visit (a new task each)")
        axes.title.set_fontsize(10)
        axes.grid(alpha=0.3)
    figure.axes[1].set_yscale("log")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    return figure


def _draw_arm(axes: Axes, colour: str, label: str, curves: list[list[float]]) -> None:
    values = np.array(curves, dtype=float)
    visits = np.arange(1, values.shape[1] + 1)
    axes.plot(visits, values.T, color=colour, lw=0.6, alpha=0.4)
    axes.plot(visits, np.nanmean(values, axis=0), color=colour, lw=2.2, label=label)


def main() -> None:
    """Writes the picture that the first argument names."""
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    folders = [Path(word) for word in sys.argv[2:] if (Path(word) / "summary.json").exists()]
    if not folders:
        sys.exit("None of these folders holds a finished run (summary.json).")
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    draw(folders).savefig(target)


if __name__ == "__main__":
    main()
