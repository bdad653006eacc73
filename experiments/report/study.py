"""Puts runs in order: by sequence, arm and seed, each with its references and its metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from isorl.experiments.grid.cell import State
from isorl.experiments.report.continual_metrics import METRICS, Scores, last, ratio_by_visit
from isorl.experiments.report.document import Cell
from isorl.experiments.report.estimates import iqm_over_seeds
from isorl.experiments.report.runs import Run, never_acted

Array = np.ndarray
HEADLINES = ("plasticity_ratio", "end_performance")
"""Metrics by which arms are ranked: the first of these that can be measured."""


@dataclass
class Study:
    """Holds the runs of a report.

    Attributes:
        runs: all, references among them.
        baseline: the arm with which others are compared; "" for the first.
        metric: what arms are ranked by; "" for the first of HEADLINES that can be measured.
    """

    runs: Sequence[Run]
    baseline: str = ""
    metric: str = ""

    @cached_property
    def arms(self) -> list[str]:
        """The names of what is compared, the baseline first, in the order of the grid."""
        names = list(dict.fromkeys(run.arm for run in self.runs if run.kind == "arm"))
        return sorted(names, key=lambda name: name != self.reference_arm)

    @cached_property
    def reference_arm(self) -> str:
        """The arm with which others are compared: the baseline, or the first arm there is."""
        names = [run.arm for run in self.runs if run.kind == "arm"]
        return self.baseline if self.baseline in names else next(iter(names), "")

    @cached_property
    def sequences(self) -> list[str]:
        """The names of the sequences, in the order of the grid."""
        return list(dict.fromkeys(run.sequence for run in self.runs))

    @cached_property
    def _by_place(self) -> dict[tuple[str, str], list[Run]]:
        places: dict[tuple[str, str], list[Run]] = {}
        for run in sorted(self.runs, key=lambda run: run.seed):
            places.setdefault((run.sequence, run.arm), []).append(run)
        return places

    @cached_property
    def _by_id(self) -> dict[str, Run]:
        return {run.id: run for run in self.runs}

    def of(self, sequence: str, arm: str) -> list[Run]:
        """Returns the runs of an arm on a sequence that have measured something, by seed."""
        return [run for run in self._by_place.get((sequence, arm), []) if run.visits]

    def finished(self, sequence: str, arm: str) -> list[Run]:
        """Returns the runs of an arm on a sequence that are at their end, by seed."""
        return [run for run in self.of(sequence, arm) if run.state is State.FINISHED]

    def fresh_of(self, run: Run) -> Run | None:
        """Returns the fresh reference of `run`, if that has got as far; else None."""
        return self._reference(run, run.fresh)

    def random_of(self, run: Run) -> Run | None:
        """Returns the random reference of `run`, if there is one."""
        return self._reference(run, run.random)

    def _reference(self, run: Run, id: str) -> Run | None:
        found = self._by_id.get(id)
        return found if found is not None and found.visits >= run.visits else None

    def boundary(self, arm: str) -> str:
        """Returns whether the methods of an arm are told of switches: "informed", "agnostic"; "" where unknown."""
        known = {run.boundary for run in self.runs if run.arm == arm}
        return next((value for value in ("informed", "agnostic") if value in known), "")

    def arm_cell(self, arm: str, *sequences: str) -> Cell:
        """Returns an arm's name for a table on `sequences` (default: all), marked where a method of it never acted."""
        runs = [run for name in sequences or self.sequences for run in self._by_place.get((name, arm), [])]
        idle = sorted({name for run in runs for name in run.idle})
        return Cell(self.marked(arm, *sequences), detail=never_acted(idle))

    def ranks(self, sequence: str, arms: Sequence[str]) -> dict[str, int]:
        """Returns the rank of each of `arms` on a sequence by the headline, from 1; arms without a value have none."""
        values = {
            arm: iqm_over_seeds(list(self.by_seed(self.headline, sequence, arm).values())).value
            for arm in arms
        }
        known = {arm: value for arm, value in values.items() if np.isfinite(value)}
        return {arm: 1 + sum(other > value for other in known.values()) for arm, value in known.items()}

    def scores(self, run: Run) -> Scores:
        """Returns the arrays that metrics take, over the visits that the run has made."""
        fresh, random = self.fresh_of(run), self.random_of(run)
        made = slice(run.visits)
        return Scores(
            online=run.online,
            task=run.task,
            curve=run.curve,
            evaluation=run.evaluation,
            fresh_online=fresh.online[made] if fresh else None,
            fresh_end=fresh.end[made] if fresh else None,
            random=random.online[made] if random else None,
            score=None if np.isnan(run.score).all() else run.score,
            fresh_score=None if fresh is None or np.isnan(fresh.score).all() else fresh.score[made],
        )

    def ratios(self, run: Run) -> Array:
        """Returns the ratios to fresh agents (V,); NaN where there is no reference."""
        scores = self.scores(run)
        if scores.fresh_online is None or scores.random is None:
            return np.full(run.visits, np.nan)
        return ratio_by_visit(scores.online, scores.fresh_online, scores.random)

    def fresh_gains(self, sequence: str, arm: str) -> Array:
        """Returns by seed what fresh agents gain over random play in the last third, by which the ratio divides."""
        scores = [self.scores(run) for run in self.finished(sequence, arm)]
        gains = [
            np.mean(last(one.fresh_online - one.random))
            for one in scores
            if one.fresh_online is not None and one.random is not None
        ]
        return np.array([gain for gain in gains if np.isfinite(gain)])

    @cached_property
    def values(self) -> dict[str, dict[str, float]]:
        """The value of each metric for each finished run, by id."""
        done = [
            run for run in self.runs if run.kind != "random" and run.visits and run.state is State.FINISHED
        ]
        scores = {run.id: self.scores(run) for run in done}
        return {key: {id: metric(given) for id, given in scores.items()} for key, metric in METRICS.items()}

    @cached_property
    def headline(self) -> str:
        """The metric that arms are ranked by."""
        if self.metric:
            return self.metric
        ids = [run.id for run in self.runs if run.kind == "arm"]
        known = (
            key for key in HEADLINES if not np.isnan([self.values[key].get(id, np.nan) for id in ids]).all()
        )
        return next(known, HEADLINES[-1])

    def by_seed(self, metric: str, sequence: str, arm: str) -> dict[int, float]:
        """Returns the metric's value for each seed for which it could be measured."""
        found = {run.seed: self.values[metric][run.id] for run in self.finished(sequence, arm)}
        return {seed: value for seed, value in found.items() if np.isfinite(value)}

    @cached_property
    def idle(self) -> dict[tuple[str, str], str]:
        """(sequence, arm) -> the earlier arm whose returns it equals digit for digit: the difference did nothing."""
        found: dict[tuple[str, str], str] = {}
        for sequence in self.sequences:
            seen: dict[str, dict[int, bytes]] = {}
            for arm in self.arms:
                returns = {run.seed: run.online.tobytes() for run in self.finished(sequence, arm)}
                for other, theirs in seen.items():
                    common = returns.keys() & theirs.keys()
                    if common and all(returns[seed] == theirs[seed] for seed in common):
                        found[sequence, arm] = other
                        break
                else:
                    seen[arm] = returns
        return found

    def marked(self, arm: str, *sequences: str) -> str:
        """Returns the arm's name, with a dagger where it did nothing on one of `sequences` (default: all)."""
        idle = any((sequence, arm) in self.idle for sequence in sequences or self.sequences)
        return f"{arm} \N{DAGGER}" if idle else arm

    def matrix(self, metric: str, arm: str, sequences: Sequence[str] | None = None) -> Array:
        """Returns (N, S): the metric for the seeds that every one of `sequences` (default: all) has."""
        columns = [self.by_seed(metric, sequence, arm) for sequence in sequences or self.sequences]
        seeds = sorted(set.intersection(*(set(column) for column in columns)))
        return np.array([[column[seed] for column in columns] for seed in seeds]).reshape(
            len(seeds), len(columns)
        )

    def differences(self, metric: str, arm: str, sequences: Sequence[str] | None = None) -> Array:
        """Returns (N,): paired by seed, `arm` minus the baseline, the mean over the sequences."""
        chosen = sequences or self.sequences
        ours = [self.by_seed(metric, sequence, arm) for sequence in chosen]
        theirs = [self.by_seed(metric, sequence, self.reference_arm) for sequence in chosen]
        seeds = sorted(set.intersection(*(set(column) for column in [*ours, *theirs])))
        gaps = [[one[seed] - other[seed] for one, other in zip(ours, theirs, strict=True)] for seed in seeds]
        return np.array(gaps).reshape(len(seeds), len(chosen)).mean(axis=1)
