"""Makes the sections on what came out: results, comparisons, trends, learning curves, ratios visit by visit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from isorl.experiments.report import charts
from isorl.experiments.report.continual_metrics import METRICS, first, last, trend
from isorl.experiments.report.document import Cell, Section, Table
from isorl.experiments.report.estimates import estimate_cell, iqm_over_seeds, rng, seeds_cell
from isorl.experiments.report.formatting import format_number, format_p_value
from isorl.experiments.report.panels import panels, present
from isorl.experiments.report.statistics import (
    LEVEL,
    Estimate,
    bootstrap,
    holm,
    least_p_value,
    mean,
    paired_p_value,
    probability_of_improvement,
    seeds_needed,
)
from isorl.experiments.report.study import Study


def results(study: Study) -> Section:
    """Shows every arm per sequence: the interquartile mean over seeds with its interval."""
    section = Section("Results", legend=True)
    section.texts.append(
        "Interquartile means over seeds with 95 % intervals (bootstrap over seeds). The ratio sets a uniformly random "
        "agent to 0 and a fresh agent with the same network, optimizer and budget to 1. Best in bold; a bold number is "
        "not a significant one. Fewer than five seeds have no interval: their values are given."
    )
    section.texts.append(
        f"Ranks are by {study.headline.replace('_', ' ')}. Informed arms have a method that is told when the task "
        "switches, and hollow points; the others are ranked among themselves, too."
    )
    section.texts += [
        f"\N{DAGGER} '{arm}' on '{sequence}' equals '{other}' digit for digit: what tells it apart did nothing there."
        for (sequence, arm), other in study.idle.items()
    ]
    shown = ("plasticity_ratio", "plasticity_trend", "worst_visit", "recovery_time", "average_performance",
             "first_performance", "start_performance", "end_performance", "final_performance",
             "forgetting", "zero_shot_transfer")  # fmt: skip
    for sequence in study.sequences:
        columns = [key for key in shown if any(study.by_seed(key, sequence, arm) for arm in study.arms)]
        if columns:
            section.tables.append(_result_table(study, sequence, columns))
            headlines = dict.fromkeys((study.headline, "average_performance"))
            section.pictures += present([charts.intervals(study, sequence, metric) for metric in headlines])
    return section


def _result_table(study: Study, sequence: str, columns: Sequence[str]) -> Table:
    arms = [arm for arm in study.arms if study.finished(sequence, arm)]
    values = {(arm, key): list(study.by_seed(key, sequence, arm).values()) for arm in arms for key in columns}
    best = {
        key: _best([iqm_over_seeds(values[arm, key]).value for arm in arms], METRICS[key].better)
        for key in columns
    }
    ranks = study.ranks(sequence, arms)
    among_agnostic = study.ranks(sequence, [arm for arm in arms if study.boundary(arm) == "agnostic"])
    rows = [
        [
            study.arm_cell(arm, sequence),
            Cell(study.boundary(arm) or "\N{EN DASH}"),
            Cell(str(len(study.finished(sequence, arm)))),
            *(Cell(str(of.get(arm, "\N{EN DASH}"))) for of in (ranks, among_agnostic)),
            *(
                seeds_cell(values[arm, key], strong=iqm_over_seeds(values[arm, key]).value == best[key])
                for key in columns
            ),
        ]
        for arm in arms
    ]
    of_metrics = (key.replace("_", " ") for key in columns)
    head = ("", "boundary", "seeds", "rank", "among agnostic", *of_metrics)
    return Table(head, rows, left=2, caption=sequence, colours=[study.arms.index(arm) for arm in arms])


def _best(values: Sequence[float], better: str) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.nan if not known else max(known) if better == "high" else min(known)


def unsteady(study: Study) -> list[str]:
    """Returns a sentence on the ratios that divide by a gain which is hardly there, if there are any."""
    found = []
    for sequence in study.sequences:
        for arm in study.arms:
            gains = study.fresh_gains(sequence, arm)
            if len(gains) and (
                gains.mean() <= 0 or (len(gains) > 1 and gains.mean() < 2 * gains.std(ddof=1))
            ):
                low, high = format_number(gains.min()), format_number(gains.max())
                found.append(f"'{arm}' on '{sequence}' (by seed {low} to {high})")
    if not found:
        return []
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return [
        "Ratios to fresh agents say little where these hardly beat random play: they divide by that gain. So it is for "
        f"{', '.join(found[:5])}{more}. Rank by returns (--metric end_performance), or train for longer."
    ]


def comparison(study: Study) -> Section | None:
    """Compares every arm with the baseline, paired by seed, corrected for their number."""
    others = [arm for arm in study.arms if arm != study.reference_arm]
    scope = [s for s in study.sequences if study.by_seed(study.headline, s, study.reference_arm)]
    gaps = {arm: study.differences(study.headline, arm, scope) for arm in others} if scope else {}
    gaps = {arm: gap for arm, gap in gaps.items() if len(gap)}
    if not gaps:
        return None
    raw = {arm: paired_p_value(gap, rng()) if len(gap) > 1 else math.nan for arm, gap in gaps.items()}
    corrected = holm({arm: p for arm, p in raw.items() if not math.isnan(p)})
    base = study.matrix(study.headline, study.reference_arm, scope)
    rows = []
    for arm, gap in gaps.items():
        better = bootstrap(
            probability_of_improvement, study.matrix(study.headline, arm, scope), base, rng=rng()
        )
        rows.append([
            study.arm_cell(arm, *scope),
            Cell(study.boundary(arm) or "\N{EN DASH}"),
            estimate_cell(bootstrap(mean, gap[:, None], rng=rng())),
            Cell(f"{np.count_nonzero(gap > 0)} of {len(gap)}"),
            estimate_cell(better, 2 * (better.value - 0.5)),
            Cell(format_p_value(raw[arm])),
            Cell(format_p_value(corrected.get(arm, math.nan)), strong=corrected.get(arm, 1.0) < 1 - LEVEL),
            Cell(f"{seeds_needed(gap):.0f}".replace("nan", "\N{EN DASH}")),
        ])  # fmt: skip
    head = (
        "",
        "boundary",
        "difference",
        "seeds above",
        "P(improvement)",
        "p",
        "p (Holm)",
        "seeds for a claim",
    )
    section = Section(f"Against {study.reference_arm}")
    names = ", ".join(f"'{sequence}'" for sequence in scope)  # they may hold commas
    least = least_p_value(max(len(gap) for gap in gaps.values()))
    section.texts.append(
        f"Differences in {study.headline.replace('_', ' ')}, paired by seed, the mean over {names}. "
        f"p: sign-flip test; with these seeds it cannot fall below {least:.3g}. Holm corrects for {len(gaps)} "
        "comparisons. Seeds for a claim: to find such a difference with 80 % power at 5 %, a rough guess from few."
    )
    section.tables.append(Table(head, rows, left=2, colours=[study.arms.index(arm) for arm in gaps]))
    section.pictures += present([charts.profile(study)])
    return section


def learning(study: Study) -> Section:
    """Shows learning curves with switches."""
    section = Section("Learning curves")
    section.texts.append(
        "Raw return of training episodes; upright lines are switches. First all arms over each other, their means over "
        "seeds. Then each arm. Solid: its mean with a 95 % interval, or with every seed as a thin line where they are "
        f"fewer than five. Dashed: {study.reference_arm}. Dotted: fresh agents of the same network and optimizer."
    )
    section.legend = True
    section.pictures += present([charts.overlay(study, sequence) for sequence in study.sequences])
    return panels(section, study, charts.learning_curve)


def visits(study: Study) -> Section:
    """Shows the ratio to fresh agents, as a heat map and as bars."""
    section = Section("Visit by visit, against fresh agents")
    section.texts.append("1 is as good as an agent that starts from scratch, 0 as good as random play.")
    for sequence in study.sequences:
        means = {arm: _mean_ratios(study, sequence, arm) for arm in study.arms}
        rows = {arm: values for arm, values in means.items() if values is not None}
        if rows:
            section.tables.append(_heat(study, sequence, rows))
    if not section.tables:
        section.texts = ["No ratios: these runs have no fresh and random references. `train.py -m` makes them for a "
                         "benchmark, and for any sweep with references=true."]  # fmt: skip
        return section
    return panels(section, study, charts.visit_bars)


def _mean_ratios(study: Study, sequence: str, arm: str) -> np.ndarray | None:
    rows = [study.ratios(run) for run in study.of(sequence, arm)]
    rows = [row for row in rows if not np.isnan(row).all()]
    return charts.mean_over_seeds(rows) if rows else None


def _heat(study: Study, sequence: str, rows: dict[str, np.ndarray]) -> Table:
    longest = max(len(values) for values in rows.values())
    table = [
        [
            study.arm_cell(arm, sequence),
            *(
                Cell(format_number(v), shade=None if np.isnan(v) else float(np.clip(v - 1, -1, 1)))
                for v in values
            ),
        ]
        for arm, values in rows.items()
    ]
    head = ("", *(str(visit + 1) for visit in range(longest)))
    return Table(
        head, table, caption=f"{sequence}: ratio by visit", colours=[study.arms.index(arm) for arm in rows]
    )


def trends(study: Study) -> Section | None:
    """Shows the slope over the visits of the seeds' mean ratio."""
    section = Section("Is plasticity lost?")
    section.texts.append(
        "Least-squares slope per visit of the seeds' mean ratio to fresh, with Student's t interval over the visits."
    )
    for sequence in study.sequences:
        ratios = {arm: _mean_ratios(study, sequence, arm) for arm in study.arms}
        long = {arm: values for arm, values in ratios.items() if values is not None and len(values) >= 3}
        rows = [_trend_row(study.arm_cell(arm, sequence), values) for arm, values in long.items()]
        marks = [study.arms.index(arm) for arm in long]
        head = ("", "slope per visit", "", "first third", "last third")
        if rows:
            section.tables.append(Table(head, rows, caption=sequence, colours=marks))
    return section if section.tables else None


def _trend_row(arm: Cell, values: np.ndarray) -> list[Cell]:
    found = trend(values)
    slope = estimate_cell(
        Estimate(found.slope, found.low, found.high), float(np.clip(found.slope * len(values), -1, 1))
    )
    ends = [Cell(format_number(float(np.nanmean(part)))) for part in (first(values), last(values))]
    return [arm, slope, Cell(_verdict(found.low, found.high)), *ends]


def _verdict(low: float, high: float) -> str:
    return (
        "loses plasticity" if high < 0 else "gains on fresh agents" if low > 0 else "no trend beyond chance"
    )
