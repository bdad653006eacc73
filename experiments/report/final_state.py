"""The state of the networks after the last visit beside what the arms achieve, and how the two go together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import spearmanr

from isorl.experiments.report.charts import DIAGNOSTICS
from isorl.experiments.report.document import Cell, Table
from isorl.experiments.report.estimates import iqm_over_seeds, median
from isorl.experiments.report.formatting import format_bound, format_number
from isorl.experiments.report.ridge_plots import spectra_of
from isorl.experiments.report.runs import Run
from isorl.experiments.report.study import Study

LOST = 0.1
"""A singular value below this counts as a lost direction."""
SPECTRUM: dict[str, Callable[[np.ndarray], float]] = {
    "σ, 5 % quantile": lambda sigma: float(np.quantile(sigma, 0.05)),
    f"share of σ < {LOST}": lambda sigma: float(np.mean(sigma < LOST)),
    "σ, std / mean": lambda sigma: float(sigma.std() / sigma.mean()) if sigma.any() else math.nan,
}
"""Column -> a figure of the singular values of the hidden layers' Jacobians, pooled over layers and samples."""
LEAST_ARMS = 4
"""Fewer have no rank correlation worth a number."""


def table(study: Study, sequence: str) -> Table:
    """Returns one row per finished arm: its score, then medians over seeds; below, rank correlations across arms."""
    scores = {
        arm: iqm_over_seeds(list(by_seed.values())).value
        for arm in study.arms
        if (by_seed := study.by_seed(study.headline, sequence, arm))
    }
    readings = {arm: [_reading(run) for run in study.finished(sequence, arm)] for arm in scores}
    columns = [
        key
        for key in (*DIAGNOSTICS, *SPECTRUM)
        if any(key in reading for found in readings.values() for reading in found)
    ]
    if not columns:
        return Table((), [])
    found = {
        key: [median(key, [r.get(key, math.nan) for r in readings[arm]]) for arm in scores] for key in columns
    }
    medians = {key: [value for value, _ in of_arms] for key, of_arms in found.items()}
    score = list(scores.values())
    rows = [
        [
            study.arm_cell(arm, sequence),
            Cell(study.boundary(arm) or "\N{EN DASH}"),
            Cell(format_number(score[row])),
            *(Cell(format_bound(*found[key][row])) for key in columns),
        ]
        for row, arm in enumerate(scores)
    ]
    correlations = [_correlation(medians[key], score) for key in columns]
    if not np.isnan(correlations).all():
        shades = [None if math.isnan(value) else value for value in correlations]
        cells = [Cell(format_number(value), shade) for value, shade in zip(correlations, shades, strict=True)]
        rows.append([Cell("rank correlation"), Cell(""), Cell(""), *cells])
    head = ("", "boundary", *(key.replace("_", " ") for key in (study.headline, *columns)))
    colours = [study.arms.index(arm) for arm in scores]
    return Table(head, rows, left=2, caption=f"{sequence}, after the last visit", colours=colours)


def explained(study: Study) -> str:
    """Returns what the tables show."""
    return (
        "Tables: medians over seeds after the last visit. σ: singular values of the hidden layers' Jacobians. A "
        "condition number that rounding caps is given as a lower bound. Rank "
        f"correlation: Spearman's, of a column with {study.headline.replace('_', ' ')} across arms; it is no cause."
    )


def _reading(run: Run) -> dict[str, float]:
    """Returns the diagnostics and the figures of the spectrum after the last visit, as far as they were measured."""
    known = {key: float(run.diagnostics[key][-1]) for key in DIAGNOSTICS if key in run.diagnostics}
    spectrum = np.array(spectra_of(run).get(run.visits - 1, ()))
    return known | {key: read(spectrum) for key, read in SPECTRUM.items() if spectrum.size}


def _correlation(values: Sequence[float], scores: Sequence[float]) -> float:
    pairs = np.array([pair for pair in zip(values, scores, strict=True) if not np.isnan(pair).any()])
    if len(pairs) < LEAST_ARMS or not np.ptp(pairs, axis=0).all():
        return math.nan
    return float(spearmanr(*pairs.T).statistic)
