"""Judges a stream of the arbiter by its claims, and draws its arms, from the committed data alone.

    python -m docs.draw_arbiter docs/results/arbiter/rain_dqn

Reads runs.csv there and tuned.yaml above it; writes claims.md, by the rules of docs/results/arbiter, and results.png.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from isorl.experiments.report.statistics import Estimate, bootstrap, iqm_interval, mean

ISOMETRY = ("AdamO", "AEI", "AEI, heads")
RATIO, RETURN, FIRST = "plasticity_ratio", "average_performance", "first_performance"
Values = dict[str, dict[int, float]]
"""arm -> seed -> value"""


@dataclass(frozen=True)
class Stream:
    """Holds what a stream came to.

    Attributes:
        values: by metric.
        scores: arm -> what tuning gave its best candidate.
        boundary: arm -> informed or agnostic.
    """

    values: dict[str, Values]
    scores: dict[str, float]
    boundary: dict[str, str]


def main(folder: Path) -> None:
    """Writes claims.md and results.png into `folder`."""
    stream = read(folder)
    (folder / "claims.md").write_text("\n".join(claims(stream)) + "\n")
    draw(stream).savefig(folder / "results.png", dpi=160)


def read(folder: Path) -> Stream:
    """Returns the stream of runs.csv."""
    with (folder / "runs.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "arm"]
    chosen = OmegaConf.load(folder.parent / "tuned.yaml").chosen[rows[0]["sequence"]]
    values: dict[str, Values] = {key: defaultdict(dict) for key in (RATIO, RETURN, FIRST)}
    for row in rows:
        for key, of_arm in values.items():
            of_arm[row["arm"]][int(row["seed"])] = float(row[key])
    scores = {arm: float(row.score) for arm, row in chosen.items()}
    return Stream(values, scores, {row["arm"]: row["boundary"] for row in rows})


def claims(stream: Stream) -> list[str]:
    """Returns the lines of a page with what speaks for and against each claim."""
    values, scores, boundary = stream.values, stream.scores, stream.boundary
    best = max(ISOMETRY, key=lambda arm: scores[arm])
    rivals = sorted((arm for arm in scores if arm not in ISOMETRY), key=lambda arm: boundary[arm])
    kept, adam = (interval(values[RATIO][arm]) for arm in (best, "Adam"))
    lines = [
        f"Tuned Adam keeps {said(adam)} of a fresh agent's gain: "
        + ("plasticity is lost here." if adam.high < 1 else "nothing is lost here."),
        "",
        f"The isometry arm that tuning preferred is **{best}**: it keeps {said(kept)}. "
        + ("For the claim." if kept.high >= 1 else "Against it." if kept.high < 0.9 else "Undecided."),
        "",
        f"{best} minus the other, mean over seeds of the paired difference with its 95 % interval:",
        "",
        "| against | boundary | ratio | mean return | " + f"{best} is |",
        "|---|---|--:|--:|---|",
    ]
    for arm in rivals:
        lines.append(f"| {arm} | {boundary[arm]} | {compared(values, best, arm)} |")
    lines += [
        "",
        "Of the isometry arms:",
        "",
        "| | against | ratio | mean return | the former is |",
        "|---|---|--:|--:|---|",
    ]
    for one, other in (("AEI", "Adam + MaxMin"), ("AdamO", "Adam"), ("AEI", "AdamO"), ("AEI, heads", "AEI")):
        lines.append(f"| {one} | {other} | {compared(values, one, other)} |")
    lines += ["", "Return on the first task, minus tuned Adam's:", "", "| | |", "|---|--:|"]
    lines += [f"| {arm} | {said(difference(values[FIRST], arm, 'Adam'))} |" for arm in ISOMETRY]
    return lines


def compared(values: dict[str, Values], one: str, other: str) -> str:
    """Returns three cells of a table: both differences, and whether `one` is better, level or worse."""
    both = [difference(values[key], one, other) for key in (RATIO, RETURN)]
    wins, losses = any(found.low > 0 for found in both), any(found.high < 0 for found in both)
    verdict = "level" if wins == losses else "better" if wins else "worse"
    return " | ".join([*map(said, both), verdict])


def difference(values: Values, one: str, other: str) -> Estimate:
    """Returns the mean over common seeds of one arm's value minus the other's, with its interval."""
    seeds = sorted(values[one].keys() & values[other].keys())
    paired = np.array([[values[one][seed] - values[other][seed]] for seed in seeds])
    return bootstrap(mean, paired, rng=np.random.default_rng(0))


def interval(values: dict[int, float]) -> Estimate:
    """Returns the interquartile mean over seeds with its interval."""
    return iqm_interval(np.array(list(values.values()))[:, None], np.random.default_rng(0))


def said(found: Estimate) -> str:
    """Returns a number with its interval."""
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def draw(stream: Stream) -> Figure:
    """Draws ratio and mean return of every arm with intervals, each panel's best on top; informed arms are hollow."""
    values, boundary = stream.values, stream.boundary
    figure = Figure((11, 0.9 + 0.23 * len(boundary)), layout="constrained")
    for axes, key in zip(figure.subplots(1, 2), (RATIO, RETURN), strict=True):
        found = {arm: interval(of_arm) for arm, of_arm in values[key].items()}
        order = sorted(found, key=lambda arm: found[arm].value)
        for row, arm in enumerate(order):
            colour = "#c2410c" if arm in ISOMETRY else "#475569"
            axes.hlines(row, found[arm].low, found[arm].high, color=colour, lw=2.4, alpha=0.5)
            inside = "white" if boundary[arm] == "informed" else colour
            axes.plot(found[arm].value, row, "o", color=colour, mfc=inside, ms=5)
        axes.set_yticks(range(len(order)), order, fontsize=8)
        axes.set_xlabel({RATIO: "plasticity ratio", RETURN: "mean return over all tasks"}[key])
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right", "left"]].set_visible(False)
        if key == RATIO:
            axes.axvline(1, color="#475569", lw=0.9, ls=":")
    return figure


if __name__ == "__main__":
    main(Path(sys.argv[1]))
