"""Writes numbers as they are shown in the report."""

from __future__ import annotations

import math

from isorl.experiments.report.statistics import Estimate


def format_number(value: float) -> str:
    """Writes two decimals, or three digits where it is large; a dash where nothing was measured."""
    if math.isnan(value):
        return "\N{EN DASH}"
    if math.isinf(value):
        return "never" if value > 0 else "-∞"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) >= 10 else f"{value:.2f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text


def format_bound(value: float, is_bound: bool) -> str:
    """Writes a number, after "at least" where it is a lower bound."""
    return f"at least {format_number(value)}" if is_bound else format_number(value)


def format_interval(found: Estimate) -> str:
    """Writes an interval in brackets; nothing where there is none."""
    return "" if math.isnan(found.low) else f"[{format_number(found.low)}, {format_number(found.high)}]"


def format_p_value(value: float) -> str:
    """Writes a p-value with three decimals, or that it is below 0.001."""
    return "\N{EN DASH}" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def format_count(value: float) -> str:
    """Writes a count in full up to a million, in millions from there: 24,576, or 1.2 million."""
    return f"{value:,.0f}" if value < 1e6 else f"{value / 1e6:,.1f} million"
