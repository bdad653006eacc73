"""How numbers, times and texts are written in a report."""

import math

import numpy as np
import pytest

from isorl.experiments.report.document import Cell, Table
from isorl.experiments.report.formatting import format_count, format_number, format_p_value
from isorl.experiments.terminal import duration

NUMBERS = {0.0: "0.00", -0.001: "0.00", 1.0: "1.00", 12.345: "12.3", 12345.6: "12,346", np.inf: "never"}


@pytest.mark.parametrize(("value", "text"), NUMBERS.items(), ids=map(str, NUMBERS))
def test_numbers_as_they_are_shown(value, text):
    assert format_number(value) == text


def test_latex_reads_every_character_as_it_is():
    table = Table(["a_b", "50 %"], [[Cell("x & y \\ {z}"), Cell("1", strong=True, detail="[0, ∞]")]])
    assert table.to_latex().splitlines()[2:5] == [
        r"a\_b & 50 \% \\",
        r"\midrule",
        r"x \& y \textbackslash{} \{z\} & \textbf{1} {\scriptsize [0, $\infty$]} \\",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (24_576, "24,576"),
        (999_999, "999,999"),
        (1_240_000, "1.2 million"),
        (161e6, "161.0 million"),
        (0, "0"),
    ],
)
def test_counts_are_honest(value, text):
    assert format_count(value) == text


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(18.2, "18 seconds"), (150, "2.5 minutes"), (8_000, "2.2 hours"), (864_000, "10.0 days")],
)
def test_times_are_honest(seconds, said):
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("value", "text"), [(math.nan, "\N{EN DASH}"), (0.0009, "< 0.001"), (0.001, "0.001"), (0.25, "0.250")]
)
def test_p_values_as_they_are_shown(value, text):
    assert format_p_value(value) == text
