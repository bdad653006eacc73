"""What foretells the next visit, on data where one diagnostic does and another does not."""

import math

import numpy as np
import pytest
from scipy import stats

from isorl.experiments.report import network_sections
from isorl.experiments.report.prediction import predict
from isorl.experiments.report.runs import Run
from isorl.experiments.report.study import Study


def made_up(arms=4, seeds=8, visits=12, seed=0):
    """(arm, sequence, cause, echo, noise, later): `cause` sets the next visit, `echo` repeats the present one."""
    rng = np.random.default_rng(seed)
    arm, sequence = np.repeat([f"arm {n}" for n in range(arms)], seeds), np.repeat("catch", arms * seeds)
    cause, noise = rng.normal(size=(2, arms * seeds, visits))
    later = np.zeros((arms * seeds, visits))
    later[:, 1:] = cause[:, :-1] + 0.3 * rng.normal(size=(arms * seeds, visits - 1))
    later[:, 0] = rng.normal(size=arms * seeds)
    return arm, sequence, cause, later + 0.1 * rng.normal(size=later.shape), noise, later


def test_what_predicts_is_told_from_what_does_not():
    arm, sequence, cause, _, noise, later = made_up()
    true, false = (predict(x, later, arm, sequence, 1, later) for x in (cause, noise))
    assert true.within.value > 0.9
    assert true.within.low > 0.85
    assert true.beyond.low > 0.85
    assert abs(false.within.value) < 0.1
    assert false.within.low < 0 < false.within.high
    assert (true.pairs, true.runs, true.arms) == (32 * 11, 32, 4)
    assert not predict(cause, later, arm, sequence, 2).within.low > 0


def test_the_mean_inside_arms_is_scipys():
    arm, sequence, cause, _, _, later = made_up(seeds=6)
    by_arm = [
        stats.spearmanr(cause[arm == one][:, :-1].ravel(), later[arm == one][:, 1:].ravel()).statistic
        for one in np.unique(arm)
    ]
    assert predict(cause, later, arm, sequence, 1).within.value == pytest.approx(np.mean(by_arm))


def test_what_only_repeats_the_present_says_nothing_beyond_it():
    """In a persistent process an echo of the present foretells the next visit; given the present, it does not."""
    rng = np.random.default_rng(0)
    later = np.cumsum(rng.normal(size=(40, 15)), axis=1)
    echo = later + 0.5 * rng.normal(size=later.shape)
    ahead = np.roll(later, -1, axis=1) + 0.5 * rng.normal(size=later.shape)
    arm = np.repeat(["a", "b"], 20)
    found = predict(echo, later, arm, np.repeat("s", 40), 1, later)
    assert found.within.low > 0.8
    assert found.beyond.low < 0.02
    assert abs(found.beyond.value) < 0.15
    assert predict(ahead, later, arm, np.repeat("s", 40), 1, later).beyond.low > 0.3


def test_the_partial_correlation_is_that_of_residuals():
    """By an independent way: correlate the residuals of linear fits of both ranks on the control's."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=(10, 9))
    x, y = z + rng.normal(size=z.shape), np.roll(z, 1, axis=1) + rng.normal(size=z.shape)
    found = predict(x, y, np.repeat("a", 10), np.repeat("s", 10), 1, z).beyond.value
    ranks = [stats.rankdata(part) for part in (x[:, :-1].ravel(), y[:, 1:].ravel(), z[:, :-1].ravel())]
    residuals = [r - np.polyval(np.polyfit(ranks[2], r, 1), ranks[2]) for r in ranks[:2]]
    assert found == pytest.approx(np.corrcoef(*residuals)[0, 1])


def test_a_diagnostic_that_only_tells_methods_apart_is_seen_across_them_alone():
    rng = np.random.default_rng(0)
    arm = np.repeat([f"arm {n}" for n in range(5)], 10)
    level = np.repeat(np.arange(5.0), 10)[:, None]
    diagnostic, later = level + rng.normal(size=(50, 8)), -level + rng.normal(size=(50, 8))
    found = predict(diagnostic, later, arm, np.repeat("s", 50), 1)
    assert found.across.value == pytest.approx(-1)
    assert found.across.high < -0.8
    assert found.within.low < 0 < found.within.high


def test_intervals_hold_what_they_promise_when_visits_of_a_run_go_together():
    """Both columns drift by run, each for itself: over draws, about 95 % of the intervals hold zero."""
    inside = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        drift = [rng.normal(size=(20, 1)) + 0.3 * rng.normal(size=(20, 10)) for _ in range(2)]
        found = predict(*drift, np.repeat("a", 20), np.repeat("s", 20), 1).within
        inside.append(found.low <= 0 <= found.high)
    assert np.mean(inside) > 0.85


def test_a_diagnostic_that_leads_by_two_visits_is_found_there():
    signal = np.random.default_rng(0).normal(size=(30, 12))
    later, names = np.roll(signal, 2, axis=1), np.repeat("x", 30)
    assert predict(signal, later, names, names, 2).within.value == pytest.approx(1)
    assert abs(predict(signal, later, names, names, 1).within.value) < 0.2
    assert math.isnan(predict(signal, later, names, names, 12).within.value)


def test_fewer_than_five_seeds_have_no_interval():
    arm, sequence, cause, _, _, later = made_up(seeds=4)
    found = predict(cause, later, arm, sequence, 1)
    assert found.within.value > 0.9
    assert math.isnan(found.within.low)


@pytest.mark.parametrize("causes", ["feature_effective_rank", "ntk_condition"])
def test_the_report_answers_whether_rank_or_conditioning_predicts(causes, tmp_path):
    arm, _, cause, _, noise, later = made_up()
    other = {"feature_effective_rank": "ntk_condition", "ntk_condition": "feature_effective_rank"}[causes]
    runs = [
        Run(
            str(n),
            tmp_path,
            "catch",
            str(arm[n]),
            n,
            online=later[n],
            diagnostics={causes: cause[n], other: noise[n]},
        )
        for n in range(len(arm))
    ]
    section = network_sections.prediction(Study(runs))
    (answer,) = [text for text in section.texts if text.startswith("Rank or conditioning?")]
    for key, said in ((causes, "foretells the next visit"), (other, "foretells nothing")):
        (sentence,) = [part for part in answer.split(". ") if f"{key} " in part]
        assert sentence.partition(f"{key} ")[2].startswith(said)
        assert sentence.count(said) >= 2, "within arms, and with the other held fixed"
    table = section.tables[0]
    assert table.rows[0][0].text == causes
    assert [cell.text for cell in table.rows[0][-2:]] == ["352", "32"]
    assert "raw return (there are no references)" in section.texts[0]
