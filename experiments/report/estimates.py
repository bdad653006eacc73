"""Turns numbers over seeds into cells of a table."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from isorl.experiments.report.document import Cell
from isorl.experiments.report.formatting import format_interval, format_number
from isorl.experiments.report.statistics import LEAST_SEEDS, Estimate, iqm_interval
from isorl.plasticity.diagnostics import METRICS


def rng() -> np.random.Generator:
    """Returns the same generator for every interval: a report made twice is the same report."""
    return np.random.default_rng(0)


def estimate_cell(found: Estimate, shade: float | None = None, strong: bool = False) -> Cell:
    """Returns a cell with a value over its interval."""
    return Cell(format_number(found.value), shade, strong, format_interval(found))


def seeds_cell(values: Sequence[float], strong: bool = False) -> Cell:
    """Returns a cell with the interquartile mean over seeds: over its interval, or the values where they are few."""
    known = sorted(value for value in values if np.isfinite(value))
    found = iqm_over_seeds(known)
    if 1 < len(known) < LEAST_SEEDS:
        return Cell(format_number(found.value), None, strong, " ".join(map(format_number, known)))
    return estimate_cell(found, strong=strong)


def iqm_over_seeds(values: Sequence[float]) -> Estimate:
    """Returns the interquartile mean over seeds with its interval; values that are not finite are left out."""
    return _iqm_over_seeds(tuple(value for value in values if np.isfinite(value)))


def median(metric: str, values: Sequence[float]) -> tuple[float, bool]:
    """Returns the median of a diagnostic over seeds, without NaN, and whether it is a lower bound.

    It is one where readings that are themselves as large as the measurement can tell (`Metric.is_bound`) decide it:
    where the median would move if they were infinite.
    """
    known = np.array([value for value in values if not math.isnan(value)])
    if not len(known):
        return math.nan, False
    is_bound = METRICS[metric].is_bound if metric in METRICS else lambda value: False
    opened = [math.inf if is_bound(float(value)) else value for value in known]
    middle = float(np.median(known))
    return middle, math.isfinite(middle) and math.isinf(np.median(opened))


@functools.lru_cache(maxsize=100_000)  # the same numbers stand in several tables
def _iqm_over_seeds(values: tuple[float, ...]) -> Estimate:
    return (
        iqm_interval(np.array(values)[:, None], rng()) if values else Estimate(math.nan, math.nan, math.nan)
    )
