"""What the demo and the page of claims compute from runs, on runs made up by hand; and one real, short run."""

import numpy as np
import pytest

from benchmarks import claims
from benchmarks.streams import ARMS, first_last, jobs_of, play
from benchmarks.tables import interval
from docs import demo


def made_up(level, tasks=10, seeds=range(3)):
    """Runs whose accuracy rises by 0.01 per task from `level`, a little better from seed to seed."""
    metrics = {metric: [level] * tasks for metric in claims.METRICS}
    return {
        str(seed): {
            "accuracy": [level + 0.01 * task + 0.001 * seed for task in range(tasks)],
            "seconds": 1.0,
            "held_out": [level] * tasks,
            **metrics,
        }
        for seed in seeds
    }


def test_first_and_last_tasks():
    first, last = first_last(list(made_up(0.5).values()), tasks=2)
    np.testing.assert_allclose(first, [0.505, 0.506, 0.507])
    np.testing.assert_allclose(last, [0.585, 0.586, 0.587])


@pytest.mark.parametrize(
    ("first", "last", "words"),
    [(0.46, 0.12, "hardly"), (0.37, 0.29, "less"), (0.5, 0.51, "as at first"), (0.5, 0.6, "better")],
)
def test_verdicts(first, last, words):
    assert words in demo.verdict(first, last)


def test_intervals():
    values = np.random.default_rng(0).normal(0.5, 0.1, 10)
    low, high = interval(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(10), rel=0.15)
    assert interval(np.full(10, 0.3)) == (0.3, 0.3)


def test_the_page_says_what_does_not_hold(tmp_path, monkeypatch):
    """AEI is made better than AdamO and worse than MaxMin alone; Adam does not collapse."""
    levels = {"adam": 0.3, "adamo": 0.5, "maxmin": 0.7, "aei": 0.6}
    results = {
        name: {arm: made_up(levels.get(arm, 0.4), 20) for arm in study.arms}
        for name, study in claims.STUDIES.items()
    }
    monkeypatch.setattr(claims, "PAGE", tmp_path / "claims.md")
    claims.write_page({**results, "machine": "here"})
    rows = [line for line in (tmp_path / "claims.md").read_text().splitlines() if line.startswith("|")]
    row = {line.split("|")[1].strip(): line for line in rows}
    assert "does not hold" in row["random labels: Adam's last two tasks below 0.20"]
    assert row["random labels: AEI at least as good as AdamO"].endswith("holds |")
    assert "not run yet" in row["Permuted MNIST: +20 % retention"]  # three seeds of ten
    assert "does not hold" in row["permuted inputs: AEI above MaxMin alone, interval above zero"]


def test_a_short_run():
    """The smoke variant: accuracies of both tasks, what is measured, what is held out."""
    job = jobs_of(["adamo"], [3], "sequence=digits_permuted-smoke")[0]
    run = play(job.words, ("dormant_units",), held_out=True)
    assert len(run["accuracy"]) == len(run["measured"]) == len(run["held_out"]) == 2
    assert 0.3 < run["accuracy"][0] < 1
    assert 0.5 < run["held_out"][1] <= 1
    assert [job.arm for job in jobs_of(ARMS, [0, 1])] == [*ARMS, *ARMS]
