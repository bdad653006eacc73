"""Measures which diagnostic of a network foretells how well it will learn later, and how early.

R runs, V visits. A diagnostic is measured at the end of each visit; `later` is a performance of each visit, here the
ratio to a fresh agent. Pairs lie `lag` visits apart: lag 1 foretells the next task. Correlations are of ranks
(Spearman); intervals are of a bootstrap that draws whole runs anew, for the visits of one run are no separate evidence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from isorl.experiments.report.statistics import LEAST_SEEDS, LEVEL, Estimate

Array = np.ndarray
FAILED = 0.5
"""A visit has failed that reached less than this share of a fresh agent's gain."""
RESAMPLES = 1_000


@dataclass(frozen=True)
class Prediction:
    """Says how a diagnostic goes with later performance.

    Attributes:
        within: rank correlation inside each arm and sequence, the mean over them: not explained by which method it is.
        beyond: the same, partial, given a control such as the present performance; NaN without one.
        across: rank correlation of the arms' means inside each sequence, the mean over them: do arms that show more of
            it learn better? It is confounded by all else that tells them apart.
        auroc: the chance that it is higher before a failure than before a success, all pooled.
        pairs: visits that were paired; `runs` and `arms` say of how many runs, and of how many arms and sequences.
    """

    within: Estimate
    beyond: Estimate
    across: Estimate
    auroc: float
    pairs: int
    runs: int
    arms: int


def pairs_of(diagnostic: Array, later: Array, lag: int) -> tuple[Array, Array, Array]:
    """Returns (run, visit, visit `lag` later) of every pair that was measured, each (K,)."""
    if lag >= diagnostic.shape[1]:
        return (np.empty(0, dtype=int),) * 3
    known = np.isfinite(diagnostic[:, : diagnostic.shape[1] - lag]) & np.isfinite(later[:, lag:])
    run, visit = np.nonzero(known)
    return run, visit, visit + lag


def auroc(x: Array, failed: Array) -> float:
    """Returns P(x of a failure > x of a success) + ties / 2; 0.5 says nothing, NaN where one kind is missing."""
    count = int(failed.sum())
    if count in (0, len(failed)):
        return float("nan")
    ranks = rankdata(x)[failed].sum()
    return float((ranks - count * (count + 1) / 2) / (count * (len(failed) - count)))


def predict(
    diagnostic: Array, later: Array, arm: Array, sequence: Array, lag: int, control: Array | None = None
) -> Prediction:
    """Measures how `diagnostic` (R, V) goes with `later` (R, V), `lag` visits on.

    Args:
        diagnostic: at the end of each visit.
        later: performance of each visit.
        arm: name of each run's arm, (R,).
        sequence: name of each run's sequence, (R,).
        lag: visits between the two, at least 1.
        control: (R, V) what is held fixed for `beyond`, taken at the visit of the diagnostic.
    """
    run, visit, then = pairs_of(diagnostic, later, lag)
    if control is not None:
        known = np.isfinite(control[run, visit])
        run, visit, then = run[known], visit[known], then[known]
    x, y = diagnostic[run, visit], later[run, then]
    z = np.zeros(len(run)) if control is None else control[run, visit]
    _, place = np.unique([f"{s}\0{a}" for s, a in zip(sequence, arm, strict=True)], return_inverse=True)
    _, stream = np.unique(sequence, return_inverse=True)
    weights = _weights(place, run)
    within, beyond = _inside(x, y, z, run, place, weights)
    across = _between(x, y, run, place, stream, weights)
    return Prediction(
        _estimate(within),
        _estimate(beyond),
        _estimate(across),
        auroc(x, y < FAILED),
        len(run),
        len(np.unique(run)),
        len(np.unique(place[run])),
    )


def _weights(place: Array, run: Array) -> Array:
    """How often each run is drawn, (1 + RESAMPLES, R); the first row is what was measured.

    Runs are drawn anew within their arm and sequence. No resamples where an arm has too few seeds for an interval.
    """
    measured = np.unique(run)
    counts = np.unique(place[measured], return_counts=True)[1]
    found = np.zeros((1 + (RESAMPLES if len(counts) and counts.min() >= LEAST_SEEDS else 0), len(place)))
    found[0, measured] = 1
    rng = np.random.default_rng(0)
    for one in np.unique(place[measured]):
        members = measured[place[measured] == one]
        share = np.full(len(members), 1 / len(members))
        found[1:, members] = rng.multinomial(len(members), share, size=len(found) - 1)
    return found


def _inside(x: Array, y: Array, z: Array, run: Array, place: Array, weights: Array) -> tuple[Array, Array]:
    """The mean over arms and sequences of the correlation inside each, plain and given z: (B,), (B,).

    Ranks are those of the arm and sequence, not of the resample.
    """
    plain, partial = [], []
    for one in np.unique(place[run]):
        here = place[run] == one
        ranks = [rankdata(column[here]) for column in (x, y, z)]
        moments = _moments(ranks, run[here], weights)
        xy, xz, yz = (_correlation(moments, *pair) for pair in ((0, 1), (0, 2), (1, 2)))
        plain.append(xy)
        with np.errstate(invalid="ignore", divide="ignore"):
            given = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
        partial.append(np.where(np.isfinite(given), given, np.nan))
    return _mean(plain, len(weights)), _mean(partial, len(weights))


def _between(x: Array, y: Array, run: Array, place: Array, stream: Array, weights: Array) -> Array:
    """The mean over sequences of the correlation between the arms' mean ranks (B,); of three arms or more."""
    found = []
    for one in np.unique(stream[run]):
        here = stream[run] == one
        arms = np.unique(place[run[here]])
        if len(arms) < 3:
            continue
        means = []
        for column in (x, y):
            ranks = rankdata(column[here])
            sums = [_weighted(ranks, run[here], place[run[here]] == arm, weights) for arm in arms]
            means.append(np.stack(sums))  # (arms, B)
        a, b = (rankdata(mean, axis=0) for mean in means)
        a, b = a - a.mean(0), b - b.mean(0)
        with np.errstate(invalid="ignore"):
            found.append((a * b).sum(0) / np.sqrt((a * a).sum(0) * (b * b).sum(0)))
    return _mean(found, len(weights))


def _weighted(values: Array, run: Array, chosen: Array, weights: Array) -> Array:
    """The mean of the chosen values, each weighted as often as its run was drawn: (B,)."""
    w = weights[:, run[chosen]]
    return (w @ values[chosen]) / w.sum(1)


def _moments(columns: list[Array], run: Array, weights: Array) -> dict[tuple[int, ...], Array]:
    """Weighted means of the columns, and of their products, each (B,)."""
    w = weights[:, run]
    total = np.maximum(w.sum(1), 1)
    keys = [(i,) for i in range(len(columns))] + [
        (i, j) for i in range(len(columns)) for j in range(i, len(columns))
    ]
    return {key: (w @ np.prod([columns[i] for i in key], axis=0)) / total for key in keys}


def _correlation(moments: dict[tuple[int, ...], Array], i: int, j: int) -> Array:
    covariance = moments[i, j] - moments[i,] * moments[j,]
    spread = (moments[i, i] - moments[i,] ** 2) * (moments[j, j] - moments[j,] ** 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = covariance / np.sqrt(spread)
    return np.where(spread > 1e-12, found, np.nan)


def _mean(rows: list[Array], count: int) -> Array:
    """The mean over rows (B,), NaN left out."""
    values = np.stack(rows) if rows else np.full((1, count), np.nan)
    known = np.isfinite(values)
    total = np.where(known, values, 0).sum(0)
    return np.divide(total, known.sum(0), out=np.full(count, np.nan), where=known.any(0))


def _estimate(values: Array) -> Estimate:
    """What was measured, with the interval of the resamples where there are any."""
    drawn = values[1:][np.isfinite(values[1:])]
    if not len(drawn):
        return Estimate(float(values[0]), np.nan, np.nan)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(values[0]), float(low), float(high))
