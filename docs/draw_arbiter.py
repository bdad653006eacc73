"""Judges the arbiter's streams by its claims, and draws their arms, from the committed data alone.

    python -m docs.draw_arbiter docs/results/arbiter/rain_dqn       one stream
    python -m docs.draw_arbiter docs/results/arbiter                all of them together

Of a stream it reads runs.csv and report.md there and tuned.yaml above it, and writes claims.md, by the rules of
docs/results/arbiter, and results.png; of all of them verdict.md, results.png and the table in README.md.
"""

from __future__ import annotations

import csv
import math
import re
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
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
        name: as in the benchmark's file.
        values: by metric.
        scores: arm -> what tuning gave its best candidate.
        boundary: arm -> informed or agnostic.
        fresh: fresh agents of a network, an optimizer and its settings -> seed -> mean return over all tasks.
        rank, conditioning: correlation, within arms, of the features' effective rank and of the NTK's condition number
            with the gain on the next task, the present return and the other of the two held fixed.
    """

    name: str
    values: dict[str, Values]
    scores: dict[str, float]
    boundary: dict[str, str]
    fresh: Values
    rank: Estimate
    conditioning: Estimate

    @property
    def best(self) -> str:
        """Returns the isometry arm that tuning preferred."""
        return max((arm for arm in ISOMETRY if arm in self.scores), key=lambda arm: self.scores[arm])

    @property
    def best_informed(self) -> str:
        """Returns the informed arm of highest return."""
        told = [arm for arm, boundary in self.boundary.items() if boundary == "informed"]
        return max(told, key=lambda arm: interval(self.values[RETURN][arm]).value)

    @property
    def counts(self) -> bool:
        """Returns whether tuned Adam falls below its own fresh agent."""
        return interval(self.values[RATIO]["Adam"]).high < 1


def main(folder: Path) -> None:
    """Writes claims.md and results.png into the folder of a stream, verdict.md and results.png into that of all."""
    if (folder / "runs.csv").exists():
        stream = read(folder)
        page, figure = claims(stream), draw([stream])
        (folder / "claims.md").write_text(page)
    else:
        streams = read_all(folder)
        figure = draw(streams)
        (folder / "verdict.md").write_text(verdict(streams))
        readme = folder / "README.md"
        readme.write_text(with_table(readme.read_text(), claims_table(streams)))
    figure.savefig(folder / "results.png", dpi=160)


def read_all(folder: Path) -> list[Stream]:
    """Returns the streams below `folder`."""
    return [read(runs.parent) for runs in sorted(folder.glob("*/runs.csv"))]


@lru_cache
def read(folder: Path) -> Stream:
    """Returns the stream of runs.csv."""
    with (folder / "runs.csv").open(newline="") as file:
        every = list(csv.DictReader(file))
    rows = [row for row in every if row["kind"] == "arm"]
    name = rows[0]["sequence"]
    chosen = OmegaConf.load(folder.parent / "tuned.yaml").chosen[name]
    values: dict[str, Values] = {key: defaultdict(dict) for key in (RATIO, RETURN, FIRST)}
    for row in rows:
        for key, of_arm in values.items():
            of_arm[row["arm"]][int(row["seed"])] = float(row[key])
    boundary = {row["arm"]: row["boundary"] for row in rows}
    fresh: Values = defaultdict(dict)
    for row in every:
        if row["kind"] == "fresh":
            fresh[row["arm"]][int(row["seed"])] = float(row[RETURN])
    scores = {arm: float(row.score) for arm, row in chosen.items() if arm in boundary}
    held = re.findall(
        r"(could not be measured|\([^()]*\)) once the other is held fixed", (folder / "report.md").read_text()
    )
    numbers = [re.findall(r"-?[\d.]+", found) or 3 * ["nan"] for found in held]
    rank, conditioning = (Estimate(*map(float, found)) for found in numbers)
    return Stream(name, values, scores, boundary, fresh, rank, conditioning)


def claims(stream: Stream) -> str:
    """Returns a page with what speaks for and against each claim on one stream."""
    values, boundary, best = stream.values, stream.boundary, stream.best
    rivals = sorted((arm for arm in boundary if arm not in ISOMETRY), key=lambda arm: boundary[arm])
    lines = [
        f"Tuned Adam keeps {said(interval(values[RATIO]['Adam']))} of a fresh agent's gain: "
        + ("plasticity is lost here." if stream.counts else "nothing is lost here."),
        "",
        f"The isometry arm that tuning preferred is **{best}**.",
        "",
        "| claim | on this stream | why |",
        "|---|---|---|",
    ]
    lines += [f"| {claim} | {found} | {why} |" for claim, (found, why) in judged(stream).items()]
    lines += [
        "",
        f"{best} minus the other, mean over seeds of the paired difference with its 95 % interval:",
        "",
        "| against | boundary | ratio | mean return | " + f"{best} is |",
        "|---|---|--:|--:|---|",
    ]
    lines += [f"| {arm} | {boundary[arm]} | {' | '.join(compared(stream, best, arm))} |" for arm in rivals]
    lines += [
        "",
        "Of the isometry arms:",
        "",
        "| | against | ratio | mean return | the former is |",
        "|---|---|--:|--:|---|",
    ]
    for one, other in (("AEI", "Adam + MaxMin"), ("AdamO", "Adam"), ("AEI", "AdamO"), ("AEI, heads", "AEI")):
        lines.append(f"| {one} | {other} | {' | '.join(compared(stream, one, other))} |")
    lines += ["", "Return on the first task, minus tuned Adam's:", "", "| | |", "|---|--:|"]
    lines += [f"| {arm} | {said(difference(values[FIRST], arm, 'Adam'))} |" for arm in ISOMETRY]
    lines += [
        "",
        "Fresh agents, by whose gain ratios divide: mean return over all tasks, begun anew on each:",
        "",
    ]
    lines += ["| | |", "|---|--:|"]
    lines += [f"| {name} | {said(interval(of_seeds))} |" for name, of_seeds in sorted(stream.fresh.items())]
    return "\n".join(lines) + "\n"


KEEPS, CURE, SWITCHES, MAXMIN, COSTS, RANK = CLAIMS = (
    "Isometry keeps plasticity",
    "It is the best agnostic cure",
    "It needs no switches",
    "It is isometry, not MaxMin",
    "It costs first learning",
    "Rank, not conditioning, predicts plasticity",
)
FOR, AGAINST, UNDECIDED = "for", "against", "undecided"


def judged(stream: Stream) -> dict[str, tuple[str, str]]:
    """Returns claim -> (for, against or undecided; why) on one stream, by the rules of docs/results/arbiter."""
    best, informed = stream.best, stream.best_informed
    kept = interval(stream.values[RATIO][best])
    better = better_agnostic(stream)
    told = compared(stream, best, informed)
    activation = compared(stream, "AEI", "Adam + MaxMin")
    first = {arm: difference(stream.values[FIRST], arm, "Adam") for arm in ("AdamO", "AEI")}
    foretold = [found.low > 0 or found.high < 0 for found in (stream.rank, stream.conditioning)]
    return {
        KEEPS: (
            FOR if kept.high >= 1 else AGAINST if kept.high < 0.9 else UNDECIDED,
            f"{best} keeps {said(kept)}",
        ),
        CURE: (
            AGAINST if better else FOR,
            f"better than {best}: {', '.join(better) or 'none of the agnostic rivals'}",
        ),
        SWITCHES: (
            AGAINST if told[2] == "worse" else FOR,
            f"{best} is {told[2]} against {informed}: ratio {told[0]}, return {told[1]}",
        ),
        MAXMIN: (
            FOR if activation[2] == "better" else AGAINST,
            f"AEI is {activation[2]} against MaxMin alone: ratio {activation[0]}, return {activation[1]}",
        ),
        COSTS: (
            FOR if any(found.high < 0 for found in first.values()) else AGAINST,
            "; ".join(f"{arm} returns {said(found)} against Adam" for arm, found in first.items())
            + " on the first task",
        ),
        RANK: (
            {(True, False): FOR, (False, True): AGAINST}.get((foretold[0], foretold[1]), UNDECIDED),
            "the kernel's condition number stands at its cap: nothing can be held against it"
            if math.isnan(stream.conditioning.value)
            else f"effective rank {said(stream.rank)}, NTK condition {said(stream.conditioning)}, the other held fixed",
        ),
    }


def better_agnostic(stream: Stream) -> list[str]:
    """Returns the agnostic rivals that are better than the best isometry arm."""
    rivals = [arm for arm, told in stream.boundary.items() if told == "agnostic" and arm not in ISOMETRY]
    return [arm for arm in rivals if compared(stream, arm, stream.best)[2] == "better"]


def verdict(streams: list[Stream]) -> str:
    """Returns a page with the claims on all streams and what follows from those on which plasticity is lost."""
    counting = [stream for stream in streams if stream.counts]
    lines = claims_table(streams)
    lines += [
        "",
        "Better, level and worse than the best isometry arm, streams on which plasticity is lost:",
        "",
        "| | boundary | streams | better | level | worse |",
        "|---|---|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {arm} | {boundary} | {sum(tally.values())} | "
        + " | ".join(str(tally[word]) for word in VERDICTS)
        + " |"
        for (arm, boundary), tally in sorted(
            standing(counting).items(), key=lambda row: (row[0][1], row[0][0])
        )
    ]
    return "\n".join(lines) + "\n"


def claims_table(streams: list[Stream]) -> list[str]:
    """Returns the lines of a table of the claims on all streams, and names those on which nothing is lost."""
    counting = [stream for stream in streams if stream.counts]
    apart = [stream for stream in streams if not stream.counts]
    by_stream = [judged(stream) for stream in (*counting, *apart)]
    lines = ["| claim | " + " | ".join(stream.name for stream in (*counting, *apart)) + " | over them |"]
    lines.append("|---|" + "---|" * (len(streams) + 1))
    for claim in CLAIMS:
        found = [judgement[claim][0] for judgement in by_stream]
        lines.append(f"| {claim} | {' | '.join(found)} | **{over_streams(claim, counting)}** |")
    if apart:
        names = ", ".join(stream.name for stream in apart)
        lines += ["", f"Nothing is lost on {names}: shown, not counted."]
    return lines


def with_table(page: str, table: list[str]) -> str:
    """Returns a page with `table` between its marks."""
    before, mark, rest = page.partition("<!-- verdict -->\n")
    _, end, after = rest.partition("<!-- end verdict -->")
    return "".join([before, mark, *(f"{line}\n" for line in table), end, after])


VERDICTS = ("better", "level", "worse")


def standing(streams: list[Stream]) -> dict[tuple[str, str], Counter[str]]:
    """Returns (rival, boundary) -> on how many streams it is better, level and worse than the best isometry arm."""
    found: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for stream in streams:
        for arm, boundary in stream.boundary.items():
            if arm not in ISOMETRY:
                found[arm, boundary][compared(stream, arm, stream.best)[2]] += 1
    return found


def over_streams(claim: str, streams: list[Stream]) -> str:
    """Returns what a claim comes to over streams, by the rules of docs/results/arbiter."""
    found = Counter(judged(stream)[claim][0] for stream in streams)
    half = len(streams) / 2
    if claim == KEEPS:
        return FOR if found[FOR] == len(streams) else AGAINST if found[AGAINST] >= 2 else UNDECIDED
    if claim == CURE:
        tallies = [tally for (_, boundary), tally in standing(streams).items() if boundary == "agnostic"]
        if any(tally["better"] > half for tally in tallies):
            return AGAINST
        return FOR if all(tally["better"] <= tally["worse"] for tally in tallies) else UNDECIDED
    return next((word for word in (FOR, AGAINST) if found[word] > half), UNDECIDED)


def compared(stream: Stream, one: str, other: str) -> tuple[str, str, str]:
    """Returns the differences in ratio and in return, and whether `one` is better, level or worse."""
    both = [difference(stream.values[key], one, other) for key in (RATIO, RETURN)]
    wins, losses = any(found.low > 0 for found in both), any(found.high < 0 for found in both)
    return said(both[0]), said(both[1]), "level" if wins == losses else "better" if wins else "worse"


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


def draw(streams: list[Stream]) -> Figure:
    """Draws ratio and mean return of every arm with intervals, a column per stream; informed arms are hollow.

    One stream has its two panels side by side, each with its best arm on top; several share an order of arms, that of
    their mean ratio on the streams which have them all.
    """
    if len(streams) == 1:
        figure = Figure((11, 0.9 + 0.23 * len(streams[0].boundary)), layout="constrained")
        for axes, key in zip(figure.subplots(1, 2), (RATIO, RETURN), strict=True):
            found = {arm: interval(of_arm).value for arm, of_arm in streams[0].values[key].items()}
            panel(axes, streams[0], key, sorted(found, key=lambda arm: found[arm]))
        return figure
    arms = {arm for stream in streams for arm in stream.boundary}
    whole = [stream for stream in streams if set(stream.boundary) == arms]
    order = sorted(arms, key=lambda arm: sum(interval(stream.values[RATIO][arm]).value for stream in whole))
    figure = Figure((2.4 + 2.3 * len(streams), 1.2 + 0.38 * len(arms)), layout="constrained")
    rows = figure.subplots(2, len(streams), sharey=True)
    for row, key in zip(rows, (RATIO, RETURN), strict=True):
        for axes, stream in zip(row, streams, strict=True):
            panel(axes, stream, key, order)
            if key == RATIO:
                axes.set_title(stream.name, fontsize=10)
    return figure


def panel(axes: Axes, stream: Stream, key: str, order: list[str]) -> None:
    """Draws a point and an interval for each arm, from bottom to top; an arm that was not run has an empty row."""
    for row, arm in enumerate(order):
        if arm not in stream.boundary:
            continue
        found = interval(stream.values[key][arm])
        colour = "#c2410c" if arm in ISOMETRY else "#475569"
        axes.hlines(row, found.low, found.high, color=colour, lw=2.4, alpha=0.5)
        inside = "white" if stream.boundary[arm] == "informed" else colour
        axes.plot(found.value, row, "o", color=colour, mfc=inside, ms=5)
    axes.set_yticks(range(len(order)), order, fontsize=8)
    axes.set_xlabel({RATIO: "plasticity ratio", RETURN: "mean return over all tasks"}[key])
    axes.locator_params(axis="x", nbins=6)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    if key == RATIO:
        axes.axvline(1, color="#475569", lw=0.9, ls=":")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
