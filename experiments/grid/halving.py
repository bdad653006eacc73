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
from isorl.experiments.grid.tuning import Candidate, candidates, every_setting, or_least, space_of, text

Trials = list[tuple[Candidate, list[int]]]
"""Candidates, each with the seeds on which it is to be judged."""
Proposals = Generator[Trials, Mapping[Candidate, float], None]
"""Yields the trials of a round and is sent the mean score of each over its seeds; NaN where one failed."""

OUTWARDS = 6
"""Steps beyond either edge of a range, where nothing else is left to try."""


def halving(tuning: TuningConfig, arm: str, is_possible: Callable[[Candidate], bool]) -> Proposals:
    """Proposes for `arm`: all candidates on few seeds, the better half on more, ..., then others around the best.

    Args:
        tuning: `rungs` says on how many seeds each time; of `budget` trials, `refine` are kept for the end.
        arm: of the benchmark.
        is_possible: whether a candidate beyond the edge of its range can be run at all.
    """
    alive = candidates(tuning, arm)
    tried = set(alive)
    rungs = tuning.rungs or [len(tuning.seeds)]
    for number, seeds in enumerate(rungs):
        alive = alive[: math.ceil(len(tried) / 2**number)]
        scores = yield [(candidate, tuning.seeds[:seeds]) for candidate in alive]
        alive = sorted(alive, key=lambda candidate: -or_least(scores[candidate]))  # stable: ties as listed
    if tuning.refine:
        others = around(alive[0], space_of(tuning, arm))
        chosen = list(
            itertools.islice((c for c in others if c not in tried and is_possible(c)), tuning.refine)
        )
        yield [(candidate, tuning.seeds[: rungs[-1]]) for candidate in chosen]


def around(best: Candidate, space: Mapping[str, Sequence[Any]]) -> Iterator[Candidate]:
    """Yields candidates near `best`, the nearest first: one value moved at a time, then all, then ever further out.

    Where the best value of a range is its lowest or highest, the values one and two steps beyond stand first: a step is
    the ratio of the last two values, or their difference where one is not positive. Values that are no numbers, or one
    alone, are no range.
    """
    here = dict(setting.split("=", 1) for setting in best)
    beyond_edge, beside, outwards = [], [], []
    for key, values in space.items():
        is_range = _is_range(values)
        texts = [text(value) for value in (sorted(values) if is_range else values)]
        place = texts.index(here[key])
        near = (place - 1, place + 1) if is_range else range(len(texts))
        beside += [(key, texts[i]) for i in near if 0 <= i < len(texts)]
        if is_range:
            low, high = ([(key, value) for value in side] for side in _beyond(sorted(values)))
            beyond_edge += [low[:2]] * (place == 0) + [high[:2]] * (place == len(texts) - 1)
            outwards += [low, high]
    for key, value in (*_in_turn(beyond_edge), *beside):
        yield _setting({**here, key: value})
    every = every_setting(space)
    yield from (every[index] for index in np.random.default_rng(0).permutation(len(every)))
    for key, value in _in_turn(outwards):
        yield _setting({**here, key: value})


def _setting(values: Mapping[str, str]) -> Candidate:
    return tuple(f"{key}={value}" for key, value in values.items())


def _in_turn(lists: Sequence[Sequence[tuple[str, str]]]) -> list[tuple[str, str]]:
    return [entry for row in itertools.zip_longest(*lists) for entry in row if entry is not None]


def _is_range(values: Sequence[Any]) -> bool:
    return len(values) > 1 and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _beyond(values: Sequence[float]) -> tuple[list[str], list[str]]:
    """The values 1 to OUTWARDS steps below and above those of a range (K,), to three digits."""
    sides = []
    for before, edge in ((values[1], values[0]), (values[-2], values[-1])):
        steps = range(1, OUTWARDS + 1)
        if before > 0 and edge > 0:
            found = [edge * (edge / before) ** n for n in steps]
        else:
            found = [edge + (edge - before) * n for n in steps]
        numbers = [float(f"{value:.3g}") for value in found]
        whole = all(isinstance(value, int) for value in values)
        sides.append(list(dict.fromkeys(text(round(value) if whole else value) for value in numbers)))
    return sides[0], sides[1]
