"""Computes continual metrics of one run: pure functions of score arrays, each with formula, source and range.

Letters: V visits, T tasks, P points of a visit's learning curve; R_v the mean raw return of the training episodes of
visit v, F_v that of a fresh agent on the same visit, U_v that of a uniformly random agent; E[v, t] the evaluation of
task t after visit v; t(v) the task of visit v. Everything counts from 0. What cannot be measured is NaN, never 0.

A decorated function is found by the report and by the contract tests; it is handed the arrays of `Scores` that its
parameters name:

    @metric("average_performance", formula="mean_v R_v", range="returns", better="high", source="-")
    def average_performance(online): return float(np.mean(online))
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import linregress
from scipy.stats import t as students_t

from isorl.plasticity.registry import Registry

Array = np.ndarray
NAN = float("nan")
LAST_PART = 3
"""The last (and first) 1/LAST_PART of the visits stands for the end (and the beginning) of a run."""
RECOVERED = 0.5
"""Share of a fresh agent's gain over a random one in a whole visit at which it counts as recovered."""


@dataclass(frozen=True)
class Scores:
    """Holds the scores of one run; what was not measured is NaN, or None where a whole array is missing."""

    online: Array  # (V,) R_v
    task: Array  # (V,) int, t(v)
    curve: Array | None = None  # (V, P) mean raw return in each part of the visit
    evaluation: Array | None = None  # (V, T)
    fresh_online: Array | None = None  # (V,) F_v
    fresh_end: Array | None = None  # (V,) a fresh agent's return over the last fifth of the visit
    random: Array | None = None  # (V,) U_v
    score: Array | None = None  # (V,) R_v on the scale of envs/scores.csv: 0 random, 1 the reference
    fresh_score: Array | None = None  # (V,) F_v on that scale


@dataclass(frozen=True)
class Metric:
    """Describes a number per run.

    Args:
        key: its name.
        formula: its definition, in the letters of this file.
        range: the values that it can take.
        better: "high" or "low".
        source: where the definition comes from.
        compute: the function.
    """

    key: str
    formula: str
    range: str
    better: str
    source: str
    compute: Callable[..., float]

    @property
    def needs(self) -> tuple[str, ...]:
        """The names of the arrays that it takes."""
        return tuple(inspect.signature(self.compute).parameters)

    def __call__(self, scores: Scores) -> float:
        """Returns the number; NaN where an array that it needs was not measured."""
        given = {name: getattr(scores, name) for name in self.needs}
        return NAN if any(array is None for array in given.values()) else self.compute(**given)

    def missing(self, scores: Scores) -> list[str]:
        """Returns the names of the arrays that it needs and that were not measured."""
        return [name for name in self.needs if getattr(scores, name) is None]


METRICS: Registry[Metric] = Registry("continual metric")


def metric(
    key: str, *, formula: str, range: str, better: str, source: str
) -> Callable[[Callable[..., float]], Callable[..., float]]:
    """Registers a function of arrays of `Scores` as the metric `key`."""

    def register(compute: Callable[..., float]) -> Callable[..., float]:
        METRICS.register(key)(Metric(key, formula, range, better, source, compute))
        return compute

    return register


def _mean(values: Array) -> float:
    """Mean of what was measured; NaN of nothing."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if kept.size else NAN


def visits_of(task: Array) -> dict[int, Array]:
    """Returns for each task the numbers of its visits, in order, from (V,)."""
    return {int(index): np.flatnonzero(task == index) for index in np.unique(task)}


def last(values: Array) -> Array:
    """Returns the last third of (V,), at least one."""
    return values[-max(len(values) // LAST_PART, 1) :]


def first(values: Array) -> Array:
    """Returns the first third of (V,), at least one."""
    return values[: max(len(values) // LAST_PART, 1)]


# --- performance ----------------------------------------------------------------------------------------------------


@metric(
    "average_performance",
    formula="mean_v R_v",
    range="of the returns",
    better="high",
    source="online return; Abbas et al. 2023, arXiv 2303.07507",
)
def average_performance(online: Array) -> float:
    """Averages the mean training return (V,) over the visits."""
    return _mean(online)


@metric(
    "first_performance",
    formula="R_0",
    range="of the returns",
    better="high",
    source="this project: what a method costs a network that has lost nothing yet",
)
def first_performance(online: Array) -> float:
    """Returns how well the first task is learned (V,)."""
    return float(online[0])


@metric(
    "start_performance",
    formula="mean of R_v over the first third of the visits",
    range="of the returns",
    better="high",
    source="the counterpart of end_performance",
)
def start_performance(online: Array) -> float:
    """Returns how well the first tasks are learned (V,)."""
    return _mean(first(online))


@metric(
    "end_performance",
    formula="mean of R_v over the last third of the visits",
    range="of the returns",
    better="high",
    source="Dohare et al. 2024, Nature 632",
)
def end_performance(online: Array) -> float:
    """Measures how well the last tasks are learned (V,)."""
    return _mean(last(online))


@metric(
    "final_performance",
    formula="mean_t E[V-1, t]",
    range="of the returns",
    better="high",
    source="Wolczyk et al. 2021 (Continual World), arXiv 2105.10919",
)
def final_performance(evaluation: Array) -> float:
    """Averages the evaluation (V, T) of every task after the last visit: a measure of memory as well."""
    return _mean(evaluation[-1])


def auc_by_visit(curve: Array) -> Array:
    """Returns the area under each visit's learning curve over its length (V,): the mean of its parts (V, P)."""
    return np.array([_mean(row) for row in curve])


@metric(
    "auc",
    formula="mean_v (1/P) sum_p curve[v, p]",
    range="of the returns",
    better="high",
    source="Wolczyk et al. 2021, arXiv 2105.10919",
)
def auc(curve: Array) -> float:
    """Averages the area under the learning curves (V, P); unlike R_v it weighs time, not episodes."""
    return _mean(auc_by_visit(curve))


# --- plasticity -----------------------------------------------------------------------------------------------------


def ratio_by_visit(online: Array, fresh_online: Array, random: Array) -> Array:
    """Returns (R_v - U_v) / (F_v - U_v), all (V,): 1 learns like a fresh agent, 0 like none.

    NaN where the fresh agent does not beat the random one: then there is nothing to be measured against.
    """
    gain = fresh_online - random
    return np.divide(
        online - random, gain, out=np.full(len(gain), NAN), where=gain > 1e-9 * (1 + np.abs(random))
    )


def gain_ratio(online: Array, fresh_online: Array, random: Array) -> float:
    """Returns sum (R - U) / sum (F - U) over some visits, all (V,).

    A mean of ratios would jump where a single F - U is small.
    """
    known = ~np.isnan(online + fresh_online + random)
    gain = float((fresh_online - random)[known].sum())
    return float((online - random)[known].sum()) / gain if gain > 0 else NAN


@metric(
    "plasticity_ratio",
    formula="sum (R_v - U_v) / sum (F_v - U_v) over the last third of the visits",
    range="(-inf, inf); 1 is as good as fresh",
    better="high",
    source="against learning from scratch, as Dohare et al. 2024; random is zero",
)
def plasticity_ratio(online: Array, fresh_online: Array, random: Array) -> float:
    """Measures what the last visits reach of what fresh agents reach."""
    return gain_ratio(last(online), last(fresh_online), last(random))


@metric(
    "plasticity_ratio_first",
    formula="mean over tasks seen twice of (R_k - U_k) / (R_1 - U_1), k the last visit, 1 the first",
    range="(-inf, inf); 1 is as good as the first time",
    better="high",
    source="ratio to the first visit as in MEAL, Tomilin et al. 2025, arXiv 2506.14990; random is zero",
)
def plasticity_ratio_first(online: Array, task: Array, random: Array) -> float:
    """Compares the last visit of each task with its first; NaN where no task is visited twice."""
    ratios = []
    for visits in visits_of(task).values():
        begin, end = visits[0], visits[-1]
        gain = online[begin] - random[begin]
        if end > begin and gain > 0:
            ratios.append((online[end] - random[end]) / gain)
    return _mean(np.array(ratios))


@metric(
    "plasticity_kept",
    formula="plasticity_ratio over the last third / over the first third of the visits",
    range="(-inf, inf); 1 is nothing lost",
    better="high",
    source="this project: visit k against 1 where no task repeats",
)
def plasticity_kept(online: Array, fresh_online: Array, random: Array) -> float:
    """Compares the end of the run with its beginning, both against fresh agents."""
    begin = gain_ratio(first(online), first(fresh_online), first(random))
    return gain_ratio(last(online), last(fresh_online), last(random)) / begin if begin > 0 else NAN


@metric(
    "worst_visit",
    formula="min_v (R_v - U_v) / (F_v - U_v)",
    range="(-inf, inf); 1 is as good as fresh",
    better="high",
    source="this project",
)
def worst_visit(online: Array, fresh_online: Array, random: Array) -> float:
    """Finds the visit that was learned worst, against a fresh agent."""
    ratio = ratio_by_visit(online, fresh_online, random)
    return float(np.nanmin(ratio)) if not np.all(np.isnan(ratio)) else NAN


@dataclass(frozen=True)
class Trend:
    """Holds a slope per visit with its two-sided interval."""

    slope: float
    low: float
    high: float


def trend(values: Array, level: float = 0.95) -> Trend:
    """Fits a least-squares slope of (V,) over the visits, with Student's t interval; NaN below three visits."""
    at = np.flatnonzero(~np.isnan(values))
    if len(at) < 3:
        return Trend(NAN, NAN, NAN)
    fit = linregress(at, values[at])
    half = float(students_t.ppf((1 + level) / 2, len(at) - 2) * fit.stderr)
    return Trend(float(fit.slope), float(fit.slope) - half, float(fit.slope) + half)


@metric(
    "plasticity_trend",
    formula="slope of (R_v - U_v) / (F_v - U_v) against v",
    range="(-inf, inf) per visit; below 0 loses plasticity",
    better="high",
    source="least squares; the decline of Dohare et al. 2024 as a number",
)
def plasticity_trend(online: Array, fresh_online: Array, random: Array) -> float:
    """Measures the change of the ratio to fresh agents from visit to visit."""
    return trend(ratio_by_visit(online, fresh_online, random)).slope


@metric(
    "recovery_time",
    formula="median_{v >= 1} of the first (p+1)/P with curve[v, p] >= U_v + (F_v^end - U_v) / 2",
    range="(0, 1] visits; inf if never",
    better="low",
    source="this project; time to threshold, Taylor and Stone 2009",
)
def recovery_time(curve: Array, fresh_end: Array, random: Array) -> float:
    """Returns the share of a visit until half of a fresh agent's final gain is back; inf if in most visits never."""
    times = [_reached(*row) for row in zip(curve[1:], fresh_end[1:], random[1:], strict=True)]
    known = [time for time in times if not np.isnan(time)]
    return (
        float(np.sort(known)[len(known) // 2]) if known else NAN
    )  # the upper median: never the mean with inf


def _reached(curve: Array, fresh_end: float, random: float) -> float:
    if np.isnan(fresh_end) or np.isnan(random) or fresh_end <= random:
        return NAN
    there = np.flatnonzero(curve >= random + RECOVERED * (fresh_end - random))
    return (there[0] + 1) / len(curve) if there.size else float("inf")


# --- memory and transfer --------------------------------------------------------------------------------------------


@metric(
    "forgetting",
    formula="mean over tasks of max_{first visit of t <= v < V-1} E[v, t] - E[V-1, t]",
    range="of the returns; below 0 is improvement",
    better="low",
    source="Chaudhry et al. 2018, arXiv 1801.10112, eq. 3",
)
def forgetting(evaluation: Array, task: Array) -> float:
    """Measures the best that a task once was, minus what is left of it at the end (V, T)."""
    since = {index: visits[0] for index, visits in visits_of(task).items() if visits[0] < len(task) - 1}
    return _mean(np.array([np.max(evaluation[v:-1, t]) - evaluation[-1, t] for t, v in since.items()]))


@metric(
    "backward_transfer",
    formula="mean over tasks last visited before V-1 of E[V-1, t] - E[last visit of t, t]",
    range="of the returns; below 0 is forgetting",
    better="high",
    source="Lopez-Paz and Ranzato 2017 (GEM), arXiv 1706.08840",
)
def backward_transfer(evaluation: Array, task: Array) -> float:
    """Measures what later tasks did to those already learned (V, T)."""
    learned = {index: visits[-1] for index, visits in visits_of(task).items() if visits[-1] < len(task) - 1}
    return _mean(np.array([evaluation[-1, t] - evaluation[v, t] for t, v in learned.items()]))


@metric(
    "forward_transfer",
    formula="mean_v (S_v - S^F_v) / (1 - S^F_v), S and S^F the normalised R_v and F_v",
    range="(-inf, 1]; 0 is learning from scratch",
    better="high",
    source="Wolczyk et al. 2021 (Continual World), arXiv 2105.10919, eq. 3",
)
def forward_transfer(score: Array, fresh_score: Array) -> float:
    """Measures whether what was learned before helps (above 0) or harms; needs scores with a known best, 1 (V,)."""
    room = 1 - fresh_score
    gains = np.divide(score - fresh_score, room, out=np.full(len(room), NAN), where=room > 1e-9)
    return _mean(gains)


@metric(
    "zero_shot_transfer",
    formula="mean over first visits v >= 1 of E[v-1, t(v)] - U_v",
    range="of the returns",
    better="high",
    source="forward transfer of Lopez-Paz and Ranzato 2017, arXiv 1706.08840",
)
def zero_shot_transfer(evaluation: Array, task: Array, random: Array) -> float:
    """Measures how much better than at random a task is played before it was ever trained (V, T)."""
    news = [v for v in range(1, len(task)) if task[v] not in task[:v]]
    return _mean(np.array([evaluation[v - 1, task[v]] - random[v] for v in news]))


def markdown_table() -> str:
    """Returns all metrics as a Markdown table."""
    rows = [[f"`{m.key}`", m.formula, m.range, m.better, m.source] for m in METRICS.values()]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(["| metric | formula | range | better | source |", "|---|---|---|---|---|", *lines])
