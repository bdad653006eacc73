"""Numbers of several seeds in words: bootstrap intervals, paired differences, Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import bootstrap


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of (seeds,): percentiles of 10,000 resamples."""
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    found = bootstrap(
        (values,), np.mean, method="percentile", n_resamples=10_000, rng=np.random.default_rng(0)
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def shown(values: np.ndarray, form: str = ".3f") -> str:
    """Mean and interval of (seeds,)."""
    low, high = interval(values)
    return f"{values.mean():{form}} [{low:{form}}, {high:{form}}]"


def difference(values: np.ndarray, form: str = "+.3f") -> str:
    """Mean of paired differences (seeds,), its interval, and on how many seeds it is above zero."""
    return f"{shown(values, form)}, {np.count_nonzero(values > 0)} of {len(values)} seeds"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, and an empty one."""
    lines = [head, ["---"] * len(head), *rows]
    return [*("| " + " | ".join(line) + " |" for line in lines), ""]
