"""Writes numbers as they are shown in the report."""

from __future__ import annotations

import math

import numpy as np

from isorl.experiments.report.statistics import Estimate


def format_number(value: float) -> str:
    """Writes two decimals, or three digits where it is large; a dash where nothing was measured."""
    if math.isnan(value):
        return "\N{EN DASH}"
    if math.isinf(value):
        return "never" if value > 0 else "-∞"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) >= 10 else f"{value:.2f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text


def format_interval(found: Estimate) -> str:
    """Writes an interval in brackets; nothing where there is none."""
    return "" if math.isnan(found.low) else f"[{format_number(found.low)}, {format_number(found.high)}]"


def format_p_value(value: float) -> str:
    """Writes a p-value with three decimals, or that it is below 0.001."""
    return "\N{EN DASH}" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def format_count(value: float) -> str:
    """Writes a count in full up to a million, in millions from there: 24,576, or 1.2 million."""
    return f"{value:,.0f}" if value < 1e6 else f"{value / 1e6:,.1f} million"


def format_duration(seconds: float) -> tuple[str, str]:
    """Returns (number, unit) of a time in the largest unit of which there are two."""
    for unit, size in (("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f}", unit
    return f"{seconds:,.0f}", "seconds"


def is_at_cap(condition: float) -> bool:
    """Returns whether a condition number is the largest that can be told from rounding, so that it is a lower bound.

    That is 1 / (n eps) for n eigenvalues in single precision (plasticity/diagnostics/spectra.py, `condition`).
    """
    if not (math.isfinite(condition) and condition > 0):
        return False
    count = 1 / (condition * float(np.finfo(np.float32).eps))
    return count >= 1.5 and abs(count - round(count)) < 5e-7 * count


def format_condition(value: float) -> str:
    """Writes a condition number, with "at least" where it is at its cap."""
    return f"at least {format_number(value)}" if is_at_cap(value) else format_number(value)
