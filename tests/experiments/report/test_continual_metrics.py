"""Every continual metric: a case worked by hand, a brute-force twin on random scores, and a contract."""

import itertools
import math
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from isorl.experiments.report import continual_metrics as metrics
from isorl.experiments.report.continual_metrics import METRICS, Scores

# Three tasks, task 0 visited again at the end. Returns: an agent that gets worse; random is 0, fresh is 10 everywhere.
HAND = Scores(
    online=np.array([10.0, 8.0, 6.0, 4.0]),
    task=np.array([0, 1, 2, 0]),
    curve=np.array([[0.0, 20.0], [6.0, 10.0], [2.0, 10.0], [2.0, 4.0]]),
    evaluation=np.array([[9.0, 1.0, 2.0], [5.0, 8.0, 3.0], [4.0, 6.0, 7.0], [8.0, 5.0, 1.0]]),
    fresh_online=np.full(4, 10.0),
    fresh_end=np.full(4, 16.0),
    random=np.zeros(4),
    score=np.array([0.5, 0.4, 0.3, 0.2]),
    fresh_score=np.full(4, 0.5),
)
WORKED = {
    "average_performance": 7.0,  # (10 + 8 + 6 + 4) / 4
    "first_performance": 10.0,
    "start_performance": 10.0,
    "end_performance": 4.0,  # a third of four visits is one
    "final_performance": 14 / 3,  # (8 + 5 + 1) / 3
    "auc": 6.75,  # means of the parts: 10, 8, 6, 3
    "plasticity_ratio": 0.4,  # the last visit: (4 - 0) / (10 - 0)
    "plasticity_ratio_first": 0.4,  # task 0: 4 at its last visit against 10 at its first
    "plasticity_kept": 0.4,  # 0.4 at the end against 1.0 at the beginning
    "worst_visit": 0.4,
    "plasticity_trend": -0.2,  # 1.0, 0.8, 0.6, 0.4
    "recovery_time": 1.0,  # half of 16 is reached in the second part of visits 1 and 2, never in 3: 1, 1, inf
    "forgetting": 10 / 3,  # task 0: 9 - 8; task 1: 8 - 5; task 2: 7 - 1
    "backward_transfer": -4.5,  # task 1: 5 - 8; task 2: 1 - 7; task 0 was visited last
    "forward_transfer": -0.3,  # 0, -0.1, -0.2, -0.3, each over a room of 0.5: mean of 0, -.2, -.4, -.6
    "zero_shot_transfer": 2.0,  # task 1 after visit 0: 1; task 2 after visit 1: 3
}


@pytest.mark.parametrize("key", sorted(METRICS))
def test_worked_by_hand(key):
    assert METRICS[key](HAND) == pytest.approx(WORKED[key])


numbers = st.floats(-100, 100, allow_nan=False).map(lambda x: round(x, 3))


@st.composite
def scores(draw):
    visits, tasks, points = draw(st.integers(1, 7)), draw(st.integers(1, 4)), draw(st.integers(1, 5))
    task = np.array(draw(st.lists(st.integers(0, tasks - 1), min_size=visits, max_size=visits)))
    array = lambda *shape: draw(hnp.arrays(float, shape, elements=numbers))  # noqa: E731
    return Scores(array(visits), task, array(visits, points), array(visits, tasks), array(visits), array(visits),
                  array(visits), array(visits), array(visits))  # fmt: skip


def mean(values):
    return sum(values) / len(values) if values else math.nan


class Reference:
    """The definitions, word by word, without numpy's shortcuts."""

    @staticmethod
    def third(s):
        return range(len(s.online) - max(len(s.online) // 3, 1), len(s.online))

    @staticmethod
    def average_performance(s):
        return mean(list(s.online))

    @staticmethod
    def first_performance(s):
        return s.online[0]

    @staticmethod
    def start_performance(s):
        return mean([s.online[v] for v in range(max(len(s.online) // 3, 1))])

    @staticmethod
    def end_performance(s):
        return mean([s.online[v] for v in Reference.third(s)])

    @staticmethod
    def final_performance(s):
        return mean(list(s.evaluation[len(s.online) - 1]))

    @staticmethod
    def auc(s):
        return mean([mean(list(row)) for row in s.curve])

    @staticmethod
    def gained(s, visits):
        fresh = sum(s.fresh_online[v] - s.random[v] for v in visits)
        return sum(s.online[v] - s.random[v] for v in visits) / fresh if fresh > 0 else math.nan

    @staticmethod
    def plasticity_ratio(s):
        return Reference.gained(s, Reference.third(s))

    @staticmethod
    def plasticity_kept(s):
        begin = Reference.gained(s, range(max(len(s.online) // 3, 1)))
        return Reference.plasticity_ratio(s) / begin if begin > 0 else math.nan

    @staticmethod
    def ratios(s):
        found = []
        for v, online in enumerate(s.online):
            gain = s.fresh_online[v] - s.random[v]
            found.append((online - s.random[v]) / gain if gain > 1e-9 * (1 + abs(s.random[v])) else math.nan)
        return found

    @staticmethod
    def worst_visit(s):
        known = [r for r in Reference.ratios(s) if not math.isnan(r)]
        return min(known) if known else math.nan

    @staticmethod
    def plasticity_ratio_first(s):
        found = []
        for t in set(s.task.tolist()):
            visits = [v for v in range(len(s.task)) if s.task[v] == t]
            gain = s.online[visits[0]] - s.random[visits[0]]
            if len(visits) > 1 and gain > 0:
                found.append((s.online[visits[-1]] - s.random[visits[-1]]) / gain)
        return mean(found)

    @staticmethod
    def plasticity_trend(s):
        points = [(v, r) for v, r in enumerate(Reference.ratios(s)) if not math.isnan(r)]
        if len(points) < 3:
            return math.nan
        x, y = mean([v for v, _ in points]), mean([r for _, r in points])
        return sum((v - x) * (r - y) for v, r in points) / sum((v - x) ** 2 for v, _ in points)

    @staticmethod
    def recovery_time(s):
        times = []
        for v in range(1, len(s.online)):
            gain = s.fresh_end[v] - s.random[v]
            if gain > 0:
                there = [p + 1 for p, r in enumerate(s.curve[v]) if r >= s.random[v] + 0.5 * gain]
                times.append(there[0] / len(s.curve[v]) if there else math.inf)
        return sorted(times)[len(times) // 2] if times else math.nan

    @staticmethod
    def forgetting(s):
        losses, end = [], len(s.task) - 1
        for t in set(s.task.tolist()):
            since = s.task.tolist().index(t)
            if since < end:
                losses.append(max(s.evaluation[v][t] for v in range(since, end)) - s.evaluation[end][t])
        return mean(losses)

    @staticmethod
    def backward_transfer(s):
        changes, end = [], len(s.task) - 1
        for t in set(s.task.tolist()):
            learned = max(v for v in range(len(s.task)) if s.task[v] == t)
            if learned < end:
                changes.append(s.evaluation[end][t] - s.evaluation[learned][t])
        return mean(changes)

    @staticmethod
    def forward_transfer(s):
        pairs = zip(s.score, s.fresh_score, strict=True)
        return mean([(own - fresh) / (1 - fresh) for own, fresh in pairs if 1 - fresh > 1e-9])

    @staticmethod
    def zero_shot_transfer(s):
        new = [v for v in range(1, len(s.task)) if s.task[v] not in s.task[:v].tolist()]
        return mean([s.evaluation[v - 1][s.task[v]] - s.random[v] for v in new])


@pytest.mark.parametrize("key", sorted(METRICS))
@settings(max_examples=60, deadline=None)
@given(data=scores())
def test_equals_its_brute_force_twin(key, data):
    ours, theirs = METRICS[key](data), getattr(Reference, key)(data)
    assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("key", sorted(METRICS))
def test_contract(key):
    """Takes arrays of Scores by name, says what it is, and answers a missing array by NaN."""
    metric = METRICS[key]
    assert set(metric.needs) <= {field.name for field in fields(metrics.Scores)}
    assert metric.better in ("high", "low")
    assert all((metric.formula, metric.range, metric.source, metric.compute.__doc__))
    only = Scores(online=HAND.online, task=HAND.task)
    assert math.isnan(metric(only)) == bool(metric.missing(only))


def test_ratio_is_nan_where_fresh_agents_do_not_beat_random():
    ratio = metrics.ratio_by_visit(np.array([1.0, 1.0]), np.array([0.0, 2.0]), np.array([0.0, 0.0]))
    assert np.isnan(ratio[0])
    assert ratio[1] == 0.5


def test_trend_has_students_interval():
    """Residuals 1, -2, 1 around no slope: standard error sqrt(6 / 1 / 2), t(1) = 12.706."""
    found = metrics.trend(np.array([1.0, -2.0, 1.0]))
    assert found.slope == pytest.approx(0)
    assert found.high == pytest.approx(12.706 * math.sqrt(3), rel=1e-3)
    assert found.low == pytest.approx(-found.high)
    line = metrics.trend(np.array([np.nan, 1.0, 2.0, 3.0]))
    assert (line.slope, line.low, line.high) == pytest.approx((1, 1, 1))


def test_median_recovery_is_never_a_mean_with_infinity():
    for kinds in itertools.product([0.5, math.inf], repeat=2):
        curve = np.array([[0, 0]] + [[1.0, 1.0] if kind < 1 else [0, 0] for kind in kinds])
        found = metrics.recovery_time(curve, np.ones(3), np.zeros(3))
        assert found in (0.5, math.inf)
