"""Measures which diagnostic of a network foretells how well it will learn later, and how early.

R runs, V visits. A diagnostic is measured at the end of each visit; `later` is a performance of each visit, here the
ratio to a fresh agent. Pairs lie `lag` visits apart: lag 1 foretells the next task.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

Array = np.ndarray
FAILED = 0.5
"""A visit has failed that reached less than this share of a fresh agent's gain."""


@dataclass(frozen=True)
class Prediction:
    """Says how a diagnostic goes with later performance: rank correlation, and the chance to tell failures apart."""

    correlation: float
    within: float
    auroc: float
    pairs: int


def pairs_of(diagnostic: Array, later: Array, lag: int) -> tuple[Array, Array, Array]:
    """Returns (diagnostic, performance `lag` visits later, run) of every pair that was measured, each (K,)."""
    if lag >= diagnostic.shape[1]:
        return np.empty(0), np.empty(0), np.empty(0, dtype=int)
    before, after = diagnostic[:, : diagnostic.shape[1] - lag], later[:, lag:]
    run = np.broadcast_to(np.arange(len(before))[:, None], before.shape)
    known = np.isfinite(before) & np.isfinite(after)
    return before[known], after[known], run[known]


def spearman(x: Array, y: Array) -> float:
    """Returns the rank correlation of (K,), ties at their mean rank; NaN where one does not vary."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def auroc(x: Array, failed: Array) -> float:
    """Returns P(x of a failure > x of a success) + ties / 2; 0.5 says nothing, NaN where one kind is missing."""
    count = int(failed.sum())
    if count in (0, len(failed)):
        return float("nan")
    ranks = rankdata(x)[failed].sum()
    return float((ranks - count * (count + 1) / 2) / (count * (len(failed) - count)))


def predict(diagnostic: Array, later: Array, group: Array, lag: int) -> Prediction:
    """Measures how `diagnostic` (R, V) goes with `later` (R, V), `lag` visits on.

    `correlation` pools all runs, so it also sees differences between methods; `within` is the mean over the groups (R,)
    of the correlation inside each (its own runs only), which cannot be explained by which method it is.
    """
    x, y, run = pairs_of(diagnostic, later, lag)
    inside = [spearman(x[group[run] == one], y[group[run] == one]) for one in np.unique(group)]
    known = [value for value in inside if not np.isnan(value)]
    within = float(np.mean(known)) if known else float("nan")
    return Prediction(spearman(x, y), within, auroc(x, y < FAILED), len(x))
