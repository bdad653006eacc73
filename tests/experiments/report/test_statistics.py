"""Statistics over seeds against counting, against scipy, and against rliable where it is installed."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from isorl.experiments.report import statistics as ours
from isorl.experiments.report.prediction import auroc

matrices = hnp.arrays(
    float, st.tuples(st.integers(2, 7), st.integers(1, 3)), elements=st.integers(-5, 5).map(float)
)


def test_iqm_by_hand():
    """Of 1 ... 8 the middle half is 3, 4, 5, 6."""
    assert ours.iqm(np.arange(1.0, 9).reshape(4, 2)) == 4.5


@settings(max_examples=40, deadline=None)
@given(matrices, matrices)
def test_probability_of_improvement_counts_pairs(x, y):
    columns = min(x.shape[1], y.shape[1])
    x, y = x[:, :columns], y[:, :columns]
    wins = [
        np.mean([(a > b) + 0.5 * (a == b) for a, b in itertools.product(x[:, s], y[:, s])])
        for s in range(columns)
    ]
    assert ours.probability_of_improvement(x, y) == pytest.approx(np.mean(wins))


@settings(max_examples=40, deadline=None)
@given(matrices)
def test_profile_counts_runs_above(x):
    thresholds = np.array([-6.0, 0.0, 2.5, 5.0])
    expected = [np.mean([value > tau for value in x.ravel()]) for tau in thresholds]
    assert ours.performance_profile(x, thresholds) == pytest.approx(expected)


def test_bootstrap_agrees_with_scipy_and_is_stratified():
    x = np.random.default_rng(3).normal(size=(12, 1))
    found = ours.bootstrap(ours.mean, x, rng=np.random.default_rng(0), resamples=20_000)
    theirs = stats.bootstrap(
        (x[:, 0],), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)
    columns = np.column_stack([np.zeros(5), np.full(5, 9.0)])  # no spread within a sequence: no spread at all
    still = ours.bootstrap(ours.mean, columns, rng=np.random.default_rng(0))
    assert (still.low, still.value, still.high) == (4.5, 4.5, 4.5)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(200):
        found = ours.bootstrap(ours.mean, rng.normal(size=(20, 2)), rng=rng, resamples=400)
        hits += found.low <= 0 <= found.high
    assert 0.88 <= hits / 200 <= 0.98


def test_one_seed_has_no_interval():
    found = ours.iqm_interval(np.ones((1, 3)), np.random.default_rng(0))
    assert found.value == 1
    assert math.isnan(found.low)


def test_sign_flip_test_by_hand():
    """Three positive differences: of eight sign patterns two reach the sum, p = 1/4; and scipy agrees."""
    assert ours.paired_p_value(np.array([1.0, 2.0, 3.0]), np.random.default_rng(0)) == 0.25
    gaps = np.random.default_rng(1).normal(0.4, size=10)
    theirs = stats.permutation_test((gaps,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert ours.paired_p_value(gaps, np.random.default_rng(0)) == pytest.approx(theirs)


def test_sign_flip_test_with_many_seeds_draws():
    gaps = np.random.default_rng(1).normal(0.5, size=20)
    found = ours.paired_p_value(gaps, np.random.default_rng(0))
    assert found == pytest.approx(stats.ttest_1samp(gaps, 0).pvalue, abs=0.02)


@pytest.mark.parametrize("seeds", [3, 14, 15, 20])
def test_the_least_p_value_is_that_of_differences_of_one_sign(seeds):
    found = ours.paired_p_value(np.arange(1.0, seeds + 1), np.random.default_rng(0))
    assert found >= ours.least_p_value(seeds)
    if seeds != 15:  # of so many random flips some may be the one that keeps all signs
        assert found == pytest.approx(ours.least_p_value(seeds))


def test_holm_by_hand():
    """0.01 x 3, 0.02 x 2, 0.04 x 1, each at least the one before."""
    assert ours.holm({"b": 0.02, "a": 0.01, "c": 0.03}) == pytest.approx({"b": 0.04, "a": 0.03, "c": 0.04})


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_at_least_the_raw_and_at_most_bonferroni(raw):
    corrected = ours.holm({str(i): p for i, p in enumerate(raw)})
    for number, p in enumerate(raw):
        assert p <= corrected[str(number)] <= min(1, p * len(raw)) + 1e-12


def test_seeds_needed_finds_what_it_promises():
    """A difference of one standard deviation: (1.96 + 0.84)^2 = 7.85, so 8 seeds; half of one: 32."""
    unit = np.array([-1.0, 1.0]) / math.sqrt(2)  # standard deviation 1
    assert ours.seeds_needed(unit + 1) == 8
    assert ours.seeds_needed(unit + 0.5) == 32
    assert ours.seeds_needed(unit + 100) == 6, "with five seeds no sign-flip test falls below 5 %"
    assert ours.seeds_needed(unit) == math.inf
    assert math.isnan(ours.seeds_needed(np.array([1.0])))


@pytest.fixture
def rliable():
    """rliable's `metrics` and `library`."""
    how = "the archived rliable is only a cross-check: pip install rliable 'pandas<3'"
    pytest.importorskip("rliable", reason=how)
    from rliable import library, metrics

    np.random.seed(0)  # rliable draws from numpy's global generator, whatever it is handed
    return SimpleNamespace(library=library, metrics=metrics)


GAUSSIAN = np.random.default_rng(0).normal(size=(2, 9, 3))
TIES = np.random.default_rng(1).integers(0, 3, size=(2, 7, 2)).astype(float)


@pytest.mark.parametrize(
    ("x", "y"), [GAUSSIAN, TIES, (GAUSSIAN[0], GAUSSIAN[1, :4])], ids=["gaussian", "ties", "unequal"]
)
def test_rliable_computes_the_same_numbers(rliable, x, y):
    assert ours.iqm(x) == pytest.approx(rliable.metrics.aggregate_iqm(x))
    assert ours.mean(x) == pytest.approx(rliable.metrics.aggregate_mean(x))
    theirs = rliable.metrics.probability_of_improvement(x, y)
    assert ours.probability_of_improvement(x, y) == pytest.approx(theirs)
    thresholds = np.linspace(-2, 3, 11)
    profile, _ = rliable.library.create_performance_profile({"x": x}, thresholds, reps=10)
    assert ours.performance_profile(x, thresholds) == pytest.approx(profile["x"])


@pytest.mark.parametrize("statistic", ["iqm", "mean"])
def test_rliable_draws_the_same_interval(rliable, statistic):
    """Both stratified by sequence; sequences of different level tell this from a bootstrap that is not."""
    x = GAUSSIAN[0] + np.array([0.0, 5.0, 10.0])
    theirs = getattr(rliable.metrics, f"aggregate_{statistic}")
    _, intervals = rliable.library.get_interval_estimates(
        {"x": x}, lambda scores: np.array([theirs(scores)]), reps=10_000
    )
    found = ours.bootstrap(getattr(ours, statistic), x, rng=np.random.default_rng(0), resamples=10_000)
    assert [found.low, found.high] == pytest.approx(intervals["x"][:, 0], abs=0.03)


def test_rliable_draws_the_same_interval_of_an_improvement(rliable):
    x, y = GAUSSIAN[0] + 0.3, GAUSSIAN[1, :6]
    _, intervals = rliable.library.get_interval_estimates(
        {"x,y": [x, y]},
        lambda *pair: np.array([rliable.metrics.probability_of_improvement(*pair)]),
        reps=4_000,
    )
    rng = np.random.default_rng(0)
    found = ours.bootstrap(ours.probability_of_improvement, x, y, rng=rng, resamples=10_000)
    assert [found.low, found.high] == pytest.approx(intervals["x,y"][:, 0], abs=0.02)


def test_auroc_by_hand():
    """Failures at 3 and 1, successes at 2 and 0: of four pairs three are in order."""
    assert auroc(np.array([3.0, 1.0, 2.0, 0.0]), np.array([True, True, False, False])) == 0.75
