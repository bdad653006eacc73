"""Draws the pictures of a report, one function each: from a study to an SVG."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from isorl.experiments.report import draw
from isorl.experiments.report.continual_metrics import METRICS
from isorl.experiments.report.document import Picture
from isorl.experiments.report.estimates import iqm_over_seeds, median
from isorl.experiments.report.runs import Run
from isorl.experiments.report.statistics import LEAST_SEEDS, performance_profile
from isorl.experiments.report.study import Study

Array = np.ndarray
RESAMPLES = 300
DIAGNOSTICS = {
    "dormant_units": ("dormant units, share", "linear"),
    "ntk_condition": ("condition number of the NTK", "log"),
    "ntk_effective_rank": ("effective rank of the NTK", "linear"),
    "layer_jacobian_max": ("largest singular value of the layer Jacobians", "log"),
    "feature_effective_rank": ("effective rank of the features", "linear"),
    "weight_norm": ("norm of the weights", "linear"),
}
"""Diagnostics that are shown over the visits, where they were measured: title, scale."""


def stacked(rows: Sequence[Array]) -> Array:
    """Returns the rows, cut to the shortest, as (seeds, K)."""
    shortest = min(len(row) for row in rows)
    return np.array([row[:shortest] for row in rows], dtype=float)


def mean_over_seeds(rows: Sequence[Array]) -> Array:
    """Returns the mean of the rows (K,); NaN where no seed measured anything."""
    return _known_mean(stacked(rows)[None])[0]


def _known_mean(values: Array) -> Array:
    """Mean over the seeds of (B, seeds, K) without NaN (B, K)."""
    known = ~np.isnan(values)
    count = known.sum(axis=1)
    total = np.where(known, values, 0.0).sum(axis=1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def over_seeds(rows: Sequence[Array]) -> tuple[Array, Array, Array]:
    """Returns (mean, low, high) over seeds, each (K,): the 95 % bootstrap interval of the mean, NaN left out.

    Of fewer than LEAST_SEEDS, low and high are the mean: there is no interval.
    """
    values = stacked(rows)
    mean = _known_mean(values[None])[0]
    if len(values) < LEAST_SEEDS:
        return mean, mean, mean
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    means = _known_mean(values[drawn])
    means = np.where(np.isnan(means), mean, means)  # a draw of seeds that measured nothing there
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return mean, low, high


def curve_of(run: Run) -> tuple[Array, Array]:
    """Returns agent steps and returns of a whole run, each (V * P,)."""
    assert run.curve is not None
    points = run.curve.shape[1]
    middle = (np.arange(points) + 0.5) / points
    return (run.start[:, None] + middle * run.length[:, None]).ravel(), run.curve.ravel()


def learning_curve(study: Study, sequence: str, arm: str) -> Picture | None:
    """Draws an arm's return over the run; the baseline dashed, its fresh agents dotted, switches as lines."""
    runs = _with_curve(study.of(sequence, arm))
    if not runs or np.isnan([value for run in runs for value in run.curve.flat]).all():  # type: ignore[union-attr]
        return None  # no run, or no episode ended in any
    number = study.arms.index(arm)
    fresh = _with_curve(f for run in runs if (f := study.fresh_of(run)) is not None)
    others = _with_curve(study.of(sequence, study.reference_arm))
    with draw.panel() as (axes, made):
        draw.switches(axes, runs[0].start)
        if fresh:
            _line(axes, fresh, "fresh", color=draw.INK, lw=0.9, ls=":")
        if others and arm != study.reference_arm:
            _line(
                axes,
                others,
                study.reference_arm,
                color=draw.colour(study.arms.index(study.reference_arm)),
                lw=1.1,
                ls="--",
            )
        x, low, high = _line(axes, runs, arm, color=draw.colour(number), lw=1.8)
        if len(runs) >= LEAST_SEEDS:
            draw.band(axes, x, low, high, number)
        elif len(runs) > 1:
            for run in runs:
                _line(axes, [run], "", color=draw.colour(number), lw=0.6, alpha=0.6)
        draw.steps_label(axes, x[-1])
        axes.set_ylabel("raw return")
        axes.set_ylim(_common_limits(study, sequence))
    seeds = f"{len(runs)} seed{'s' if len(runs) > 1 else ''}"
    return Picture(made[0], f"learning curve of {arm} on {sequence}, {seeds}", title=f"{arm}, {seeds}")


def overlay(study: Study, sequence: str) -> Picture | None:
    """Draws the mean returns of all arms on a sequence over each other; fresh agents of the baseline dotted."""
    curves = {arm: _with_curve(study.of(sequence, arm)) for arm in study.arms}
    curves = {arm: runs for arm, runs in curves.items() if runs}
    if len(curves) < 2:
        return None
    base = curves.get(study.reference_arm, [])
    fresh = _with_curve(f for run in base if (f := study.fresh_of(run)) is not None)
    with draw.panel(6.4, 3.2) as (axes, made):
        draw.switches(axes, next(iter(curves.values()))[0].start)
        if fresh:
            _line(axes, fresh, "fresh", color=draw.INK, lw=0.9, ls=":")
        for arm, runs in curves.items():
            x, *_ = _line(
                axes, runs, study.marked(arm, sequence), **draw.stroke(study.arms.index(arm)), lw=1.4
            )
        draw.steps_label(axes, x[-1])
        axes.set_ylabel("raw return")
        draw.legend(axes)
    return Picture(
        made[0], f"learning curves of all arms on {sequence}", title=f"{sequence}: all arms", wide=True
    )


def _with_curve(runs: Iterable[Run]) -> list[Run]:
    return [run for run in runs if run.curve is not None and np.isfinite(run.curve).any()]


def _line(axes: draw.Axes, runs: Sequence[Run], label: str, **style: object) -> tuple[Array, Array, Array]:
    curves = [curve_of(run) for run in runs]
    mean, low, high = over_seeds([values for _, values in curves])
    known = ~np.isnan(mean)  # where no episode ended, the line goes on to the next that did
    x = curves[0][0][: len(mean)][known]
    axes.plot(x, mean[known], label=label, **style)  # type: ignore[arg-type]
    return x, low[known], high[known]


def _limits(parts: Sequence[Array]) -> tuple[float, float]:
    """Of a vertical axis that all arms of a sequence share and that holds all that is drawn."""
    values = np.concatenate([np.ravel(part) for part in parts]) if parts else np.empty(0)
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = values.min(), values.max()
    margin = 0.06 * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def _common_limits(study: Study, sequence: str) -> tuple[float, float]:
    means = []
    for arm in study.arms:
        curves = [curve_of(run)[1] for run in _with_curve(study.of(sequence, arm))]
        means += _shown(curves)
    return _limits(means)


def _shown(rows: Sequence[Array]) -> list[Array]:
    """What of the seeds is drawn, none of which an axis may cut off: an interval, or every seed."""
    return list(rows) if len(rows) < LEAST_SEEDS else list(over_seeds(rows))


def visit_bars(study: Study, sequence: str, arm: str) -> Picture | None:
    """Draws the ratio to a fresh agent in every visit, with the interval over seeds, or the seeds as points."""
    rows = [ratios for run in study.of(sequence, arm) if not np.isnan(ratios := study.ratios(run)).all()]
    if not rows:
        return None
    mean, low, high = over_seeds(rows)
    at = np.arange(1, len(mean) + 1)
    with draw.panel(height=1.9) as (axes, made):
        axes.bar(at, np.nan_to_num(mean), color=draw.colour(study.arms.index(arm)), width=0.72)
        if len(rows) >= LEAST_SEEDS:
            axes.vlines(at, low, high, color=draw.INK, lw=0.9)
        elif len(rows) > 1:
            for row in rows:
                axes.scatter(at, row[: len(at)], s=7, color=draw.INK, zorder=3)
        axes.axhline(1, color=draw.INK, lw=0.9, ls=":")
        axes.axhline(0, color=draw.INK, lw=0.6)
        axes.set(xlabel="visit", ylabel="ratio to fresh", xlim=(0.3, len(mean) + 0.7))
        axes.set_ylim(*_ratio_limits(study, sequence))
        draw.whole_numbers(axes)
    return Picture(made[0], f"ratio to a fresh agent by visit, {arm} on {sequence}", title=arm)


def _ratio_limits(study: Study, sequence: str) -> tuple[float, float]:
    drawn = []
    for arm in study.arms:
        drawn += _shown(
            [ratios for run in study.of(sequence, arm) if not np.isnan(ratios := study.ratios(run)).all()]
        )
    low, high = _limits(drawn)
    return min(low, -0.05), max(high, 1.1)


def diagnostic(study: Study, sequence: str, metric: str) -> Picture | None:
    """Draws a diagnostic at the end of each visit for every arm: the median over its seeds."""
    title, scale = DIAGNOSTICS[metric]
    medians = {arm: _medians(study.of(sequence, arm), metric) for arm in study.arms}
    lines = {arm: found for arm, found in medians.items() if found is not None}
    if not lines:
        return None
    if any(bounds.any() for _, bounds in lines.values()):
        title += "; \N{BLACK UP-POINTING TRIANGLE}: at least"
    with draw.panel(height=2.6) as (axes, made):
        for arm, (values, bounds) in lines.items():
            visits, stroke = np.arange(1, len(values) + 1), draw.stroke(study.arms.index(arm))
            axes.plot(visits, values, **stroke, lw=1.6)
            axes.plot(visits[bounds], values[bounds], "^", color=stroke["color"], ms=4)
        axes.set(xlabel="after visit", yscale=scale)
        if scale == "log":
            draw.plain_numbers(axes)
        if metric == "dormant_units":
            axes.set_ylim(0, None)
        draw.whole_numbers(axes)
    return Picture(made[0], f"{title} by visit on {sequence}", title=title)


def _medians(runs: Sequence[Run], metric: str) -> tuple[Array, Array] | None:
    """Returns the medians over seeds after each visit, and whether each is a lower bound: (V,), (V,)."""
    rows = [
        run.diagnostics[metric] for run in runs if metric in run.diagnostics and len(run.diagnostics[metric])
    ]
    rows = [row for row in rows if not np.isnan(row).all()]
    if not rows:
        return None
    values, bounds = zip(*(median(metric, column) for column in stacked(rows).T), strict=True)
    return np.array(values), np.array(bounds)


def intervals(study: Study, sequence: str, metric: str) -> Picture | None:
    """Draws every arm's interquartile mean over seeds with its interval, the best on top; of few seeds the values."""
    measured = {arm: study.by_seed(metric, sequence, arm).values() for arm in study.arms}
    known = {arm: [value for value in own if np.isfinite(value)] for arm, own in measured.items()}
    values = {arm: own for arm, own in known.items() if own}
    if len(values) < 2:
        return None
    found = {arm: iqm_over_seeds(own) for arm, own in values.items()}
    order = sorted(found, key=lambda arm: found[arm].value, reverse=METRICS[metric].better == "low")
    with draw.panel(4.4, 0.6 + 0.2 * len(order)) as (axes, made):
        for row, arm in enumerate(order):
            colour, estimate = draw.colour(study.arms.index(arm)), found[arm]
            if len(values[arm]) >= LEAST_SEEDS:
                axes.hlines(row, estimate.low, estimate.high, color=colour, lw=2.4, alpha=0.6)
            else:
                axes.scatter(values[arm], [row] * len(values[arm]), s=7, color=draw.INK, zorder=3)
            informed = study.boundary(arm) == "informed"
            axes.plot(estimate.value, row, "o", color=colour, mfc="none" if informed else colour, ms=5)
        if metric == "plasticity_ratio":
            axes.axvline(1, color=draw.INK, lw=0.9, ls=":")
        axes.set_yticks(range(len(order)), [study.marked(arm, sequence) for arm in order])
        axes.set(xlabel=metric.replace("_", " "), ylim=(-0.6, len(order) - 0.4))
        axes.grid(visible=True, axis="x")
    title = f"{sequence}: {metric.replace('_', ' ')}"
    return Picture(made[0], f"{metric.replace('_', ' ')} of all arms on {sequence}", title=title, wide=True)


def profile(study: Study) -> Picture | None:
    """Draws the share of runs whose headline metric exceeds a threshold: the higher a line, the better."""
    matrices = {arm: study.matrix(study.headline, arm) for arm in study.arms}
    matrices = {arm: matrix for arm, matrix in matrices.items() if matrix.size}
    if not matrices or study.headline != "plasticity_ratio":
        return None
    everything = np.concatenate([matrix.ravel() for matrix in matrices.values()])
    low, high = min(0.0, float(np.quantile(everything, 0.02))), max(1.2, float(everything.max()))
    thresholds = np.linspace(low, high, 200)
    with draw.panel(6.4, 2.9) as (axes, made):
        for arm, matrix in matrices.items():
            axes.plot(
                thresholds,
                performance_profile(matrix, thresholds),
                **draw.stroke(study.arms.index(arm)),
                drawstyle="steps-post",
                label=arm,
                lw=1.7,
            )
        axes.axvline(1, color=draw.INK, lw=0.9, ls=":")
        axes.set(
            xlabel="ratio to fresh in the last third of the visits",
            ylabel="share of runs above",
            ylim=(0, 1.02),
        )
        draw.legend(axes)
    return Picture(made[0], "performance profiles", title="Performance profiles", wide=True)


def cost_and_benefit(study: Study, sequence: str) -> Picture | None:
    """Draws what an arm takes against what it brings: time per agent step, the baseline's being 1."""
    base = _microseconds(study, sequence, study.reference_arm)
    points = []
    for arm in study.arms:
        scores = list(study.by_seed(study.headline, sequence, arm).values())
        time = _microseconds(study, sequence, arm)
        if scores and base > 0 and not np.isnan(time):
            points.append((arm, time / base, float(np.mean(scores))))
    if len(points) < 2:
        return None
    with draw.panel(height=2.8) as (axes, made):
        for arm, cost, benefit in points:
            axes.scatter(cost, benefit, s=46, color=draw.colour(study.arms.index(arm)), zorder=3)
        axes.margins(0.12)
        axes.set_xlabel(f"wall time per agent step, {study.reference_arm} = 1", parse_math=False)
        axes.set_ylabel(study.headline.replace("_", " "))
    return Picture(made[0], f"cost against benefit on {sequence}", title=sequence)


def _microseconds(study: Study, sequence: str, arm: str) -> float:
    """Median over the runs that had their process to themselves; NaN where none had."""
    times = [run.microseconds_per_step for run in study.finished(sequence, arm)]
    known = [time for time in times if not np.isnan(time)]
    return float(np.median(known)) if known else float("nan")
