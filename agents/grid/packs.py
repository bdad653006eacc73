"""Which cells of a grid share a process: those that differ in their seed alone and have small networks."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from omegaconf import DictConfig

from agents.grid.cell import Cell
from agents.grid.cost import at_once
from agents.grid.expand import Composer
from agents.pack import why_alone
from agents.run.experiment import build
from configs import RunConfig

SEED = "seed="


def sharing(config: DictConfig, composer: Composer) -> Callable[[list[Cell]], list[list[Cell]]]:
    """From the cells that are to be done to jobs, as the launch `config` says (together=, hydra.launcher)."""
    shares = functools.cache(lambda words: can_share(composer(words)))
    workers, most = at_once(config.hydra.launcher), max(config.together, 1)
    return lambda left: packed(left, most, workers, shares)


def packed(
    cells: Sequence[Cell], most: int, workers: int | None, shares: Callable[[tuple[str, ...]], bool]
) -> list[list[Cell]]:
    """The jobs of a launch, each with its cells.

    Args:
        cells: what is to be done.
        most: cells in one job, at most.
        workers: jobs that run at a time, none of which should be left without work; None: unknown.
        shares: whether cells of such words can be computed together.
    """
    alike: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        alike.setdefault(_but_seed(cell.words), []).append(cell)
    size = min(most, math.ceil(len(cells) / workers)) if workers else most
    jobs: list[list[Cell]] = []
    for group in alike.values():
        together = size > 1 and len(group) > 1 and shares(group[0].words)
        jobs += _parts(group, size if together else 1)
    return jobs


def _parts(group: list[Cell], size: int) -> Iterator[list[Cell]]:
    """`group` in parts of nearly the same size, which is `size` at most."""
    count = math.ceil(len(group) / size)
    for number in range(count):
        yield group[number::count]


def can_share(config: RunConfig) -> bool:
    """Whether runs of `config` with other seeds can be computed as one with it."""
    if config.agent["name"] == "random":
        return False
    parts = build(config)
    try:
        return why_alone(parts.agent) is None
    finally:
        parts.env.close()


def words_of(job: Sequence[Cell]) -> list[str]:
    """What train.py is told: the words of the cells and their absolute folders, which a worker elsewhere finds."""
    first, *others = job
    if not others:
        return [*first.words, f"run_dir={_quoted(first)}"]
    places = ",".join(f"{cell.seed}:{_quoted(cell)}" for cell in job)
    return [*_but_seed(first.words), f"pack={{{places}}}"]


def _quoted(cell: Cell) -> str:
    path = str(cell.folder).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{path}'"


def _but_seed(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(word for word in words if not word.startswith(SEED))
