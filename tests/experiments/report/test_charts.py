"""What pictures hold, read off their axes: the numbers of the study, on scales that are named."""

from contextlib import contextmanager

import numpy as np
import pytest

from isorl.experiments.report import charts, draw
from isorl.experiments.report.document import colour_mark
from isorl.experiments.report.estimates import iqm_over_seeds
from isorl.experiments.report.find_runs import find_runs
from isorl.experiments.report.statistics import LEAST_SEEDS
from isorl.experiments.report.study import Study
from tests.experiments.report.synthetic import write_grid

SEQUENCE = "sequence 0"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    grid = write_grid(
        tmp_path_factory.mktemp("grid"),
        {"keeps": 0.0, "loses": 0.1},
        sequences=1,
        seeds=LEAST_SEEDS,
        visits=4,
    )
    found = find_runs([grid])
    return Study(found.runs, found.grid.baseline)


@pytest.fixture
def axes_of(monkeypatch):
    """From a picture's function to its axes."""
    seen = []
    plain = draw.panel

    @contextmanager
    def panel(*arguments, **options):
        with plain(*arguments, **options) as (axes, made):
            seen.append(axes)
            yield axes, made

    monkeypatch.setattr(draw, "panel", panel)

    def drawn(function, *arguments):
        assert function(*arguments).svg.startswith("<svg")
        return seen[-1]

    return drawn


@pytest.mark.parametrize(("metric", "entry"), charts.DIAGNOSTICS.items())
def test_a_diagnostic_is_the_median_over_seeds_on_its_scale(study, axes_of, metric, entry):
    nothing = [[np.nan] * 4] * LEAST_SEEDS
    for number, run in enumerate(study.of(SEQUENCE, "loses")):
        measured = [[1.0, 2, 3, 4], [2, np.nan, 5, 5], [9, np.nan, 4, np.nan], *nothing]
        run.diagnostics[metric] = np.array(measured[number])
    for run in study.of(SEQUENCE, "keeps"):
        run.diagnostics[metric] = np.full(4, np.nan)
    axes = axes_of(charts.diagnostic, study, SEQUENCE, metric)
    line, lower_bounds = axes.get_lines()
    assert len(lower_bounds.get_xdata()) == 0
    np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3, 4])
    np.testing.assert_array_equal(line.get_ydata(), [2, 2, 4, 4.5])
    assert line.get_color() == draw.colour(1)
    assert (axes.get_xlabel(), axes.get_yscale()) == ("after visit", entry[1])


def test_a_learning_curve_is_the_mean_with_its_interval_beside_fresh_agents_and_the_baseline(study, axes_of):
    axes = axes_of(charts.learning_curve, study, SEQUENCE, "loses")
    lines = {line.get_label(): line for line in axes.get_lines()}
    for arm in ("keeps", "loses"):
        expected = np.mean([run.curve.ravel() for run in study.of(SEQUENCE, arm)], axis=0)
        np.testing.assert_allclose(lines[arm].get_ydata(), expected)
        np.testing.assert_allclose(lines[arm].get_xdata(), (np.arange(40) + 0.5) * 100)
    np.testing.assert_allclose(lines["fresh"].get_ydata().mean(), 1, atol=0.02)
    switches = [line.get_xdata()[0] for line in axes.get_lines() if len(line.get_xdata()) == 2]
    assert switches == [1000, 2000, 3000]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("raw return", "thousand agent steps")


def test_bars_are_ratios_and_all_arms_share_their_axis(study, axes_of):
    bars = {arm: axes_of(charts.visit_bars, study, SEQUENCE, arm) for arm in study.arms}
    heights = [patch.get_height() for patch in bars["loses"].patches]
    expected = np.mean([study.ratios(run) for run in study.of(SEQUENCE, "loses")], axis=0)
    np.testing.assert_allclose(heights, expected)
    assert bars["loses"].get_ylim() == bars["keeps"].get_ylim()
    low, high = bars["loses"].get_ylim()
    assert low <= -0.05
    assert high >= 1.1


def test_the_profile_is_the_share_of_runs_above_each_threshold(study, axes_of):
    axes = axes_of(charts.profile, study)
    for arm, line in zip(study.arms, axes.get_lines(), strict=False):
        scores = study.matrix(study.headline, arm).ravel()
        thresholds = line.get_xdata()
        np.testing.assert_allclose(line.get_ydata(), [(scores > t).mean() for t in thresholds])
        assert thresholds[0] == 0
        assert thresholds[-1] == max(1.2, *study.matrix(study.headline, "keeps").ravel())


@pytest.mark.parametrize("seeds", [1, 4, 5, 8])
def test_the_interval_over_seeds_is_the_bootstraps_from_five_seeds_on(seeds):
    rows = np.random.default_rng(1).normal(size=(seeds, 3))
    rows[0, 1] = np.nan
    mean, low, high = charts.over_seeds(list(rows))
    known = np.nanmean(rows[:, [0, 2]], axis=0)
    np.testing.assert_allclose(mean[[0, 2]], known)
    if seeds < LEAST_SEEDS:
        np.testing.assert_array_equal([low, high], [mean, mean])
    else:
        assert (low[[0, 2]] < known).all()
        assert (high[[0, 2]] > known).all()
        assert (low[[0, 2]] >= rows[:, [0, 2]].min(0)).all()


def test_colours_stand_for_the_pages_variables_and_are_its_light_ones_on_paper():
    assert draw.colour(1) == "#0a0b01" == draw.colour(1 + draw.ARMS)
    with draw.on_paper():
        assert draw.colour(1) == draw.PAGE["arm1"] == draw.colour(1 + draw.ARMS)
    assert draw.colour(0) == "#0a0b00"


def test_intervals_are_those_of_the_table_with_the_best_on_top(study, axes_of):
    axes = axes_of(charts.intervals, study, SEQUENCE, "plasticity_ratio")
    expected = {
        arm: iqm_over_seeds(list(study.by_seed("plasticity_ratio", SEQUENCE, arm).values()))
        for arm in study.arms
    }
    order = sorted(study.arms, key=lambda arm: expected[arm].value)
    assert [label.get_text() for label in axes.get_yticklabels()] == order
    points = [line for line in axes.get_lines() if line.get_marker() == "o"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in points] == [
        (expected[arm].value, row) for row, arm in enumerate(order)
    ]


def test_arms_beyond_the_palette_are_told_apart_by_dashes_and_marks():
    strokes = [str(draw.stroke(arm)) for arm in range(4 * draw.ARMS)]
    assert len(set(strokes)) == len(strokes)
    marks = [colour_mark(arm) for arm in range(4 * draw.ARMS)]
    assert len(set(marks)) == len(marks)
    assert marks[draw.ARMS + 1] == '<i class="mark again1" style="--arm:var(--arm1)"></i>'
