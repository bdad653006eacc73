"""Computes statistics over seeds: pure functions of score matrices.

A matrix is (N, S): N seeds of one method (rows) on S sequences (columns), NaN nowhere; axes before these are a batch,
with one result each. Every random draw comes from a generator that is handed in. Definitions follow Agarwal et al. 2021
(arXiv 2108.13264), whose library is no longer kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm, trim_mean

Array = np.ndarray
RESAMPLES = 2_000
BLOCK = 250
"""Resamples at a time, so that memory stays small."""
LEVEL = 0.95
LEAST_SEEDS = 5
"""Seeds from which on an interval is given; of fewer, the values themselves are shown."""


@dataclass(frozen=True)
class Estimate:
    """Holds a statistic with its two-sided bootstrap interval; NaN bounds where too few seeds say nothing of spread."""

    value: float
    low: float
    high: float


def iqm(scores: Array) -> Any:
    """Returns the interquartile mean of (..., N, S): the mean of the middle half of all runs (...)."""
    return trim_mean(scores.reshape(*scores.shape[:-2], -1), 0.25, axis=-1)


def mean(scores: Array) -> Any:
    """Returns the mean of (..., N, S) over runs and sequences (...)."""
    return np.mean(scores, axis=(-2, -1))


def bootstrap(
    statistic: Callable[..., Any],
    *matrices: Array,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Estimate:
    """Returns the percentile interval of `statistic(*matrices)` by a bootstrap of seeds, stratified by sequence.

    Within each column of each matrix (N, S) the seeds are drawn anew with replacement, so that every sequence keeps its
    weight. Fewer than LEAST_SEEDS have no interval: that of a bootstrap would be too narrow.
    """
    value = float(statistic(*matrices))
    if min(len(matrix) for matrix in matrices) < LEAST_SEEDS:
        return Estimate(value, math.nan, math.nan)
    found = [statistic(*(_drawn(matrix, rng) for matrix in matrices)) for _ in range(-(-resamples // BLOCK))]
    low, high = np.quantile(np.concatenate(found)[:resamples], [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high))


def _drawn(matrix: Array, rng: np.random.Generator) -> Array:
    """(BLOCK, N, S): the seeds of each column drawn anew with replacement."""
    rows = rng.integers(len(matrix), size=(BLOCK, *matrix.shape))
    return np.take_along_axis(matrix[None], rows, axis=1)


def iqm_interval(scores: Array, rng: np.random.Generator) -> Estimate:
    """Returns the IQM of (N, S) with its stratified bootstrap interval."""
    return bootstrap(iqm, scores, rng=rng)


def probability_of_improvement(ours: Array, theirs: Array) -> Any:
    """Returns P(X > Y) + P(X = Y) / 2 for runs X of (..., N, S), Y of (..., M, S), mean over sequences (...).

    0.5 is no difference.
    """
    one, other = ours[..., :, None, :], theirs[..., None, :, :]
    return np.mean((one > other) + 0.5 * (one == other), axis=(-3, -2, -1))


def performance_profile(scores: Array, thresholds: Array) -> Array:
    """Returns the share of all runs of (N, S) above each threshold (K,), as (K,)."""
    return np.mean(np.ravel(scores)[None, :] > thresholds[:, None], axis=1)


EXACT_SEEDS, FLIPS = 14, 20_000
"""Seeds up to which a sign-flip test tries all flips, and how many random ones beyond."""


def least_p_value(seeds: int) -> float:
    """Returns the value below which `paired_p_value` cannot fall with so many seeds."""
    return 2.0 ** (1 - seeds) if seeds <= EXACT_SEEDS else 1 / (FLIPS + 1)


def paired_p_value(differences: Array, rng: np.random.Generator, flips: int = FLIPS) -> float:
    """Tests by sign flips, two-sided, whether the mean of paired differences (N,) by seed could be zero.

    Exact up to 14 seeds (all 2^N flips), else by `flips` random ones; see `least_p_value`.
    """
    count = len(differences)
    if count <= EXACT_SEEDS:
        signs = 1 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
    else:
        signs = np.vstack([np.ones(count), rng.choice([-1, 1], size=(flips, count))])
    means = np.abs(signs @ differences)
    return float(np.mean(means >= np.abs(differences.sum()) * (1 - 1e-12)))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Corrects p-values by Holm's (1979) step-down rule, which keeps the chance of any false claim at their level."""
    order = sorted(p_values, key=lambda name: p_values[name])
    corrected, largest = {}, 0.0
    for rank, name in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[name]))
        corrected[name] = largest
    return {name: corrected[name] for name in p_values}


def seeds_needed(differences: Array, power: float = 0.8, alpha: float = 0.05) -> float:
    """Returns the seeds that find a difference like that of (N,) by pairs, with `power` at level `alpha`.

    ((z_{1-alpha/2} + z_power) sd / mean)^2, rounded up (Colas et al. 2018, arXiv 1806.08295), and at least as many as
    let the sign-flip test fall below alpha (6 for 5 %). NaN for one seed, inf for no difference. From few seeds it is a
    rough guess: their own spread is uncertain.
    """
    if len(differences) < 2:
        return math.nan
    mean, spread = float(np.mean(differences)), float(np.std(differences, ddof=1))
    if mean == 0:
        return math.inf
    z = float(norm.ppf(1 - alpha / 2) + norm.ppf(power))
    least = math.floor(1 - math.log2(alpha)) + 1  # 2^(1 - N) < alpha
    return float(max(least, math.ceil((z * spread / mean) ** 2)))
