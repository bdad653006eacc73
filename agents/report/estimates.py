"""Numbers over seeds as cells of a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from agents.report import numbers
from agents.report.document import Cell
from agents.report.statistics import Estimate, iqm_interval


def rng() -> np.random.Generator:
    """The same for every interval: a report made twice is the same report."""
    return np.random.default_rng(0)


def estimated(found: Estimate, shade: float | None = None, strong: bool = False) -> Cell:
    """A value over its interval."""
    return Cell(numbers.number(found.value), shade, strong, numbers.interval(found))


def interval(values: Sequence[float]) -> Estimate:
    """IQM over seeds."""
    kept = np.array([value for value in values if np.isfinite(value)])
    return iqm_interval(kept[:, None], rng()) if kept.size else Estimate(math.nan, math.nan, math.nan)
