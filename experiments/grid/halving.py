"""Proposes an arm's settings: successive halving over seeds (Jamieson and Talwalkar 2016), then around the best.

Every arm is tried equally often. A range at whose edge the best value stands is widened, once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from isorl.configs.suite import TuningConfig
from isorl.experiments.grid.tuning import Candidate, every_setting, or_least, space_of, text

Trials = list[tuple[Candidate, list[int]]]
"""Candidates, each with the seeds on which it is to be judged."""
Proposals = Generator[Trials, Mapping[Candidate, float], None]
"""Yields the trials of a round and is sent the mean score of each over its seeds; NaN where one failed."""

SHARES = (1 / 2, 1 / 4, 3 / 4)
"""Of the way from the best value to its neighbour, where settings in between are tried."""
OUTWARDS = 6
"""Steps beyond either edge of a range, where nothing else is left to try."""


def halving(
    tuning: TuningConfig, arm: str, first: Sequence[Candidate], is_possible: Callable[[Candidate], bool]
) -> Proposals:
    """Proposes for `arm`: all of `first` on few seeds, the better half on more, ..., then others around the best.

    Args:
        tuning: `rungs` says on how many seeds each time; what `first` leaves of `budget` trials is kept for the end.
        arm: of the benchmark.
        first: candidates, at least one.
        is_possible: whether another candidate, beyond the edge of its range perhaps, is worth a run.
    """
    alive = list(first)
    rungs = tuning.rungs or [len(tuning.seeds)]
    for number, seeds in enumerate(rungs):
        alive = alive[: math.ceil(len(first) / 2**number)]
        scores = yield [(candidate, tuning.seeds[:seeds]) for candidate in alive]
        alive = sorted(alive, key=lambda candidate: -or_least(scores[candidate]))  # stable: ties as listed
    others = dict.fromkeys(around(alive[0], space_of(tuning, arm)))  # each once
    untried = (candidate for candidate in others if candidate not in first and is_possible(candidate))
    if chosen := list(itertools.islice(untried, tuning.budget - len(first))):
        yield [(candidate, tuning.seeds[: rungs[-1]]) for candidate in chosen]


def around(best: Candidate, space: Mapping[str, Sequence[Any]]) -> Iterator[Candidate]:
    """Yields candidates near `best`, the nearest first: one value moved at a time, then all, then ever further out.

    Where the best value of a range is its lowest or highest, the values one and two steps beyond stand first: a step is
    the ratio of the last two values, or their difference where one is not positive. Then come the best value's
    neighbours, and values between it and them. Values that are no numbers, or one alone, are no range.
    """
    here = dict(setting.split("=", 1) for setting in best)
    edges, beside, between, outwards = [], [], [], []
    for key, values in space.items():
        is_range = _is_range(values)
        listed = sorted(values) if is_range else list(values)
        place = [text(value) for value in listed].index(here[key])
        near = (place - 1, place + 1) if is_range else range(len(listed))
        neighbours = [listed[i] for i in near if 0 <= i < len(listed)]
        beside += [(key, value) for value in neighbours]
        if is_range:
            between += [
                [(key, _along(listed[place], other, share)) for share in SHARES] for other in neighbours
            ]
            for edge, inner in ((0, 1), (-1, -2)):
                steps = range(1, OUTWARDS + 1)
                beyond = [(key, _along(listed[edge], listed[inner], -step)) for step in steps]
                edges += [beyond[:2]] * (place == edge % len(listed))
                outwards.append(beyond)
    for key, value in (*_in_turn(edges), *beside, *_in_turn(between)):
        yield _setting({**here, key: text(value)})
    every = every_setting(space)
    yield from (every[index] for index in np.random.default_rng(0).permutation(len(every)))
    for key, value in _in_turn(outwards):
        yield _setting({**here, key: text(value)})


def _setting(values: Mapping[str, str]) -> Candidate:
    return tuple(f"{key}={value}" for key, value in values.items())


def _in_turn(lists: Sequence[Sequence[tuple[str, Any]]]) -> list[tuple[str, Any]]:
    return [entry for row in itertools.zip_longest(*lists) for entry in row if entry is not None]


def _is_range(values: Sequence[Any]) -> bool:
    return len(values) > 1 and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _along(start: float, end: float, share: float) -> float:
    """That share of the way from `start` to `end`, by ratio where both are positive, to three digits; below 0: away."""
    by_ratio, whole = start > 0 and end > 0, isinstance(start, int) and isinstance(end, int)
    value = start * (end / start) ** share if by_ratio else start + (end - start) * share
    if whole and by_ratio:
        return max(round(value), 1)  # 0 may mean something else: never, or at switches
    if whole:
        return round(value)
    return float(f"{value:.3g}")
