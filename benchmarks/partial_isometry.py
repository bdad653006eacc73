"""Earlier methods read as partial isometry: which part of it each of them holds, beside what it achieves.

    python -m benchmarks.partial_isometry              an hour on one core; what was run before is kept
    python -m benchmarks.partial_isometry --page       only the page and the picture, from docs/partial_isometry.json

Every registered method trains the same network on the same two streams. An option that matters most is chosen among a
few values, on the first stream and a seed of its own; then fresh seeds are run and measured before the first update
and after the last.
"""

from __future__ import annotations

import argparse
import json
import platform
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from benchmarks.streams import FRESH_SEED, Run, play
from benchmarks.tables import interval, shown, table
from isorl.experiments.run.folder import write_json
from isorl.plasticity.methods import METHODS

DOCS = Path(__file__).parent.parent / "docs"
RESULTS, PAGE = DOCS / "partial_isometry.json", DOCS / "partial_isometry.md"
PICTURE = DOCS / "img" / "partial_isometry.png"
TUNING_SEEDS = (0,)
VALUES = ("ntk_condition", "dormant_units", "feature_effective_rank", "gram_anisotropy")
METRICS = ("layer_jacobian_spectrum", *VALUES)
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
LOST = 0.1
"""A singular value below this counts as a lost direction."""


@dataclass(frozen=True)
class Stream:
    """A sequence; `edge` tasks count as the first and as the last, `seeds` fresh seeds are run."""

    words: str
    title: str
    edge: int
    seeds: int


STREAMS = {
    "random": Stream("sequence=digits_random_labels", "random labels", 2, seeds=5),
    "permuted": Stream("sequence=digits_permuted-long", "permuted inputs", 10, seeds=3),
}

TUNED_ON = "random"
"""The stream, the first, on which settings are chosen for both."""

PLAIN = ("network=relu", "optimizer=adam")
ARMS: dict[str, tuple[str, ...]] = {
    "adam": PLAIN,
    "adamo": ("network=relu", "optimizer=adamo"),
    "maxmin": ("network=aei", "optimizer=adam"),
    "aei": ("network=aei", "optimizer=adamo"),
    "aei_projected": ("network=aei", "network.isometry=projected", "optimizer=adam"),
    **{name: (*PLAIN, f"method=[{name}]") for name in METHODS if not METHODS[name].needs_labels},
}
"""Arm -> what it changes on the command line: networks and optimizers, then every method on a ReLU network."""

STRENGTHS = ("wasserstein_init", "gram", "jacobian", "parseval", "feature_rank")
KNOBS: dict[str, tuple[str, tuple[float, ...]]] = {
    "adamo": ("optimizer.iso_lambda", (0.03, 0.1, 0.3)),
    "aei": ("optimizer.iso_lambda", (0.03, 0.1, 0.3)),
    **{name: (f"method.{name}.strength", (1e-4, 1e-3, 1e-2, 1e-1)) for name in STRENGTHS},
    "l2": ("method.l2.strength", (3e-4, 1e-3, 3e-3, 1e-2)),
    "l2_init": ("method.l2_init.strength", (3e-4, 1e-3, 3e-3, 1e-2)),
    "redo": ("method.redo.tau", (0.0, 0.025, 0.1, 0.3)),
    "continual_backprop": ("method.continual_backprop.replacement_rate", (1e-5, 1e-4, 1e-3)),
    "self_normalised_resets": ("method.self_normalised_resets.threshold", (0.001, 0.01, 0.05)),
    "shrink_and_perturb": ("method.shrink_and_perturb.shrink", (0.2, 0.5, 0.8)),
    "adam_betas": ("method.adam_betas.beta", (0.9, 0.95, 0.99)),
    "muon": ("method.muon.momentum", (0.8, 0.9, 0.95)),
}
"""Arm -> the option that is chosen, and among what."""
QUICK = ("method.continual_backprop.maturity=100",)
"""Continual backprop's default maturity is longer than these streams."""

Results = dict[str, Any]


def candidates(arm: str) -> list[tuple[str, ...]]:
    """The settings among which the tuning seeds choose: words of the command line."""
    base = (*ARMS[arm], *(QUICK if arm == "continual_backprop" else ()))
    if arm not in KNOBS:
        return [base]
    option, values = KNOBS[arm]
    return [(*base, f"{option}={value:g}") for value in values]


def kept(run: Run, edge: int) -> Run:
    """What the page needs of a run: accuracy on the first and last tasks; the network before and after."""
    before, after = (_state(row) for row in (run["measured"][0], run["measured"][-1]))
    accuracy = run["accuracy"]
    return {
        "first": float(np.mean(accuracy[:edge])),
        "last": float(np.mean(accuracy[-edge:])),
        "before": before,
        "after": after,
        "seconds": run["seconds"],
    }


def _state(row: dict[str, Any]) -> dict[str, Any]:
    sigma = np.asarray(row["plasticity/layer_jacobian_spectrum/classifier"])
    spectrum = {
        "quantiles": np.quantile(sigma, QUANTILES).tolist(),
        "lost": float(np.mean(sigma < LOST)),
        "spread": float(sigma.std() / sigma.mean()) if sigma.mean() > 0 else float("nan"),
    }
    return spectrum | {metric: row[f"plasticity/{metric}/classifier"] for metric in VALUES}


def run_missing(results: Results, say: Callable[[str], None]) -> None:
    """Chooses and plays what `results` lacks, every arm before the next seed, saving as it goes."""
    for name, stream in STREAMS.items():
        entries = results.setdefault(name, {})
        for seed in range(FRESH_SEED, FRESH_SEED + stream.seeds):
            for arm in filter(_can_run, ARMS):
                entry = entries.setdefault(arm, {"tried": {}, "runs": {}})
                words = _chosen(results[TUNED_ON][arm], arm)
                if str(seed) in entry["runs"]:
                    continue
                run = kept(
                    play((stream.words, *words, f"seed={seed}"), METRICS, at_the_end=True), stream.edge
                )
                entry["runs"][str(seed)] = run
                write_json(RESULTS, results)
                say(f"{stream.title}, seed {seed}: {arm} {run['last']:.3f}")


def _can_run(arm: str) -> bool:
    """Whether the package that the method needs is installed."""
    requires = METHODS[arm].requires if arm in METHODS else None
    return requires is None or find_spec(requires) is not None


def _chosen(entry: dict[str, Any], arm: str) -> tuple[str, ...]:
    """The candidate with the highest accuracy on the last tasks; what was tried is recorded."""
    tried: dict[str, float] = entry["tried"]
    settings, stream = candidates(arm), STREAMS[TUNED_ON]
    if len(settings) > 1:
        for words in settings:
            if words[-1] not in tried:
                runs = [play((stream.words, *words, f"seed={seed}"), ()) for seed in TUNING_SEEDS]
                tried[words[-1]] = float(np.mean([run["accuracy"][-stream.edge :] for run in runs]))
    return max(settings, key=lambda words: tried.get(words[-1], 0.0))


class Row:
    """One arm on one stream, over its seeds."""

    def __init__(self, arm: str, entry: dict[str, Any]) -> None:
        self.arm, self.tried = arm, entry["tried"]
        self.runs = list(entry["runs"].values())
        self.last, self.first = (np.array([run[key] for run in self.runs]) for key in ("last", "first"))

    def after(self, metric: str) -> np.ndarray:
        """(seeds,) after training."""
        return np.array([run["after"][metric] for run in self.runs])

    def before(self, metric: str) -> np.ndarray:
        """(seeds,) at the start."""
        return np.array([run["before"][metric] for run in self.runs])

    def quantile(self, q: float, when: str = "after") -> float:
        """Of the layer Jacobians' singular values, mean over seeds."""
        return float(np.mean([run[when]["quantiles"][QUANTILES.index(q)] for run in self.runs]))

    def parts(self) -> str:
        """Which parts of isometry are as at the start: no stretching, no direction lost, evenness."""
        stretch = self.quantile(1.0) <= 1.5 * self.quantile(1.0, "before")
        lost = self.after("lost").mean() <= self.before("lost").mean() + 0.05
        even = self.after("spread").mean() <= 1.25 * self.before("spread").mean()
        held = [word for word, holds in (("top", stretch), ("bottom", lost), ("even", even)) if holds]
        return ", ".join(held) or "none"


def rows(results: Results, stream: str) -> list[Row]:
    """The arms of a stream, best first."""
    found = [Row(arm, entry) for arm, entry in results[stream].items() if entry["runs"]]
    return sorted(found, key=lambda row: -row.last.mean())


def _table(found: list[Row]) -> list[str]:
    head = ("", "last tasks", "first", "largest", "smallest 5 %", "lost", "spread", "NTK condition", "dormant",
            "effective rank", "holds")  # fmt: skip
    lines = [
        [
            row.arm,
            shown(row.last),
            f"{row.first.mean():.3f}",
            f"{row.quantile(1.0):.2g}",
            f"{row.quantile(0.05):.2g}",
            f"{row.after('lost').mean():.0%}",
            f"{row.after('spread').mean():.2f}",
            f"{np.median(row.after('ntk_condition')):.2g}",
            f"{row.after('dormant_units').mean():.0%}",
            f"{row.after('feature_effective_rank').mean():.0f}",
            row.parts(),
        ]
        for row in found
    ]
    return table(head, lines)


READINGS: dict[str, Callable[[Row], float]] = {
    "largest singular value": lambda row: row.quantile(1.0),
    "lost directions": lambda row: float(row.after("lost").mean()),
    "spread": lambda row: float(row.after("spread").mean()),
    "NTK condition": lambda row: float(np.median(row.after("ntk_condition"))),
    "dormant units": lambda row: float(row.after("dormant_units").mean()),
    "effective rank of the features": lambda row: float(row.after("feature_effective_rank").mean()),
    "weights' anisotropy": lambda row: float(row.after("gram_anisotropy").mean()),
}


def _predictors(results: Results) -> list[str]:
    """Rank correlation across arms between a reading after training and accuracy on the last tasks."""
    lines = []
    for name, read in READINGS.items():
        cells = [name]
        for stream in STREAMS:
            found = rows(results, stream)
            readings = [read(row) for row in found]
            constant = len(set(readings)) == 1  # then there is no correlation
            accuracies = [row.last.mean() for row in found]
            cells.append("" if constant else f"{spearmanr(readings, accuracies).statistic:+.2f}")
        lines.append(cells)
    return table(["after training", *(stream.title for stream in STREAMS.values())], lines)


def draw(results: Results) -> Figure:
    """Per stream a column of accuracies and a column of singular values, best method on top."""
    figure = Figure(figsize=(13, 8.5), dpi=110, layout="constrained")
    axes = figure.subplots(1, 4, width_ratios=(1, 1.3, 1, 1.3))
    for i, (name, stream) in enumerate(STREAMS.items()):
        found = rows(results, name)[::-1]
        _accuracies(axes[2 * i], found, stream.title)
        _singular_values(axes[2 * i + 1], found)
    return figure


def _accuracies(place: Axes, found: list[Row], title: str) -> None:
    heights = np.arange(len(found))
    means = np.array([row.last.mean() for row in found])
    ends = np.array([interval(row.last) for row in found]).T
    place.barh(heights, means, xerr=np.abs(ends - means), color=[_colour(row) for row in found], height=0.7)
    place.set_yticks(heights, [row.arm for row in found], fontsize=8)
    place.set_title(f"{title}:\naccuracy on the last tasks", fontsize=10)
    place.set_ylim(-0.6, len(found) - 0.4)


def _singular_values(place: Axes, found: list[Row]) -> None:
    for height, row in enumerate(found):
        ends = [max(row.quantile(q), 1e-3) for q in (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)]
        place.plot((ends[0], ends[4]), (height, height), color=_colour(row), lw=1.2)
        place.plot((ends[1], ends[3]), (height, height), color=_colour(row), lw=5, solid_capstyle="butt")
        place.plot(ends[2], height, "|", color="k", ms=7)
        place.plot(ends[5], height, ".", color=_colour(row), ms=4)
    place.axvline(1, color="k", ls=":", lw=1)
    place.set(xscale="log", xlim=(1e-3, None), ylim=(-0.6, len(found) - 0.4))
    place.set_yticks(
        range(len(found)), [f"{row.after('lost').mean():.0%}" for row in found], fontsize=7, color="0.4"
    )
    place.set_title("singular values of the layers' Jacobians\n(left: share below 0.1)", fontsize=10)


def _colour(row: Row) -> str:
    if row.arm in ("adamo", "aei", "aei_projected", "gram", "jacobian", "parseval", "normalise_and_project"):
        return "C0"
    return "C3" if row.arm == "adam" else "0.55"


def _settings(results: Results) -> list[str]:
    lines = []
    for row in sorted(rows(results, TUNED_ON), key=lambda row: row.arm):
        if row.tried:
            best = max(row.tried, key=lambda words: row.tried[words])
            tried = ", ".join(f"{words.split('=')[1]}: {score:.3f}" for words, score in row.tried.items())
            lines.append([row.arm, best, tried])
    return table(("arm", "chosen", "accuracy on the last tasks by value"), lines)


TEXT = """# Earlier methods as partial isometry

Written by `python -m benchmarks.partial_isometry` from `docs/partial_isometry.json`; do not edit. Fresh
seeds; means with 95 % bootstrap intervals. A ReLU network 64-128-128-128-10 under Adam, with one method at a
time; *maxmin*, *aei* and *adamo* change network or optimizer instead. One learning rate for all (3e-3 on random
labels, 1e-3 on permuted inputs); where a method has an option that matters most, it was chosen on
random labels, seed 0 (last table). A method tuned further, learning rate included, could do better. {machine}.

Columns: online accuracy on the last and the first tasks; of the singular values of the hidden layers'
Jacobians, on the last task's probe batch after training: the *largest*, the value that 5 % lie below, the share
below 0.1 (*lost* directions; a ReLU that halves the active units loses half of them from the start), standard
deviation over mean (*spread*); condition number of the neural tangent kernel (median); dormant units; effective
rank of the features.

*Holds* says which part of isometry is as it was before training: **top**, the largest value is at most 1.5
times that at the start; **bottom**, at most 5 points more directions are lost; **even**, the spread has grown
by at most a quarter.

![accuracy and singular values of every method](img/partial_isometry.png)

Blue: methods that act on singular values; red: plain Adam. Thick bar: middle half; thin: 5 to 95 %; dot:
largest.

## Reading (21 November 2026)

- On random labels it is the bottom that counts: accuracy goes with the rank that features keep, with few lost
  directions and a well-conditioned kernel, and hardly with the largest singular value. Spectral normalisation
  holds the top and learns little; deep Fourier features, Muon, layer resets and MaxMin stretch several-fold, lose
  fewer directions than Adam, and lead.
- On permuted inputs the methods that hold singular values (projected AEI, AEI, Parseval, Gram) lead together with
  a fresh network per task; Muon, tuned on the other stream, does not.
- The coupled Jacobian penalty, ReDo and continual backprop stay near plain Adam on random labels at every value
  tried; a stronger Jacobian penalty was not tried.
"""


def write_page(results: Results) -> None:
    """docs/partial_isometry.md and its picture."""
    lines = [TEXT.format(machine=results["machine"])]
    for name, stream in STREAMS.items():
        found = rows(results, name)
        fewest, most = min(len(row.runs) for row in found), max(len(row.runs) for row in found)
        seeds = f"{most} seeds" if fewest == most else f"{fewest} to {most} seeds"
        lines += [f"## {stream.title.capitalize()}", "", f"`{stream.words}`, {seeds}", "", *_table(found)]
    lines += ["## Which reading goes with accuracy", ""]
    lines += ["Spearman's rank correlation across the arms of the tables above; association, not cause.", ""]
    lines += [*_predictors(results), "## What was chosen", "", *_settings(results)]
    PAGE.write_text("\n".join(lines).rstrip() + "\n")
    draw(results).savefig(PICTURE)


def main(say: Callable[[str], None] = print) -> None:
    """Runs what is missing, writes page and picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", action="store_true", help="write the page from the numbers there are")
    options = parser.parse_args()
    results: Results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if not options.page:
        results["machine"] = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # AdamO's, where a tuned strength is too weak to act
            run_missing(results, say)
    write_page(results)
    say(f"written: {PAGE}")


if __name__ == "__main__":
    main()
