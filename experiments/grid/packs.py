"""Which cells of a grid share a process: those of one sequence whose agents are computed as one (agents/batched).

Seeds, rates, strengths and methods may differ.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import pairwise

from omegaconf import DictConfig

from isorl.agents.batched import batching_key
from isorl.configs import RunConfig
from isorl.experiments.grid.cell import Cell
from isorl.experiments.grid.cost import at_once
from isorl.experiments.grid.expand import SEED, Composer
from isorl.experiments.run.experiment import build


def sharing(config: DictConfig, composer: Composer) -> Callable[[list[Cell]], list[list[Cell]]]:
    """Returns the function from cells to jobs that a launch `config` asks for (together=, hydra.launcher)."""
    key = functools.cache(lambda overrides: key_of(composer(overrides)))
    workers, most = at_once(config.hydra.launcher), max(config.together, 1)
    return lambda left: packed(left, most, workers, key)


def packed(
    cells: Sequence[Cell], most: int, workers: int | None, key: Callable[[tuple[str, ...]], Hashable]
) -> list[list[Cell]]:
    """Returns the jobs of a launch, each with its cells.

    Args:
        cells: what is to be done.
        most: cells in one job, at most.
        workers: jobs that run at a time, none of which should be left without work; None: unknown.
        key: of the overrides of a cell without its seed, equal where cells are computed as one; None: never.
    """
    size = min(most, math.ceil(len(cells) / workers)) if workers else most
    alike: dict[Hashable, list[Cell]] = {}
    for cell in cells:
        of_cell = key(_without_seed(cell)) if size > 1 and len(cells) > 1 else None
        alike.setdefault(cell.id if of_cell is None else (cell.sequence, of_cell), []).append(cell)
    return [job for group in alike.values() for job in _parts(group, size)]


def _without_seed(cell: Cell) -> tuple[str, ...]:
    return tuple(override for override in cell.overrides if not override.startswith(SEED))


def _parts(group: list[Cell], size: int) -> Iterator[list[Cell]]:
    """`group` in parts of nearly the same size, which is `size` at most; neighbours stay together."""
    count = math.ceil(len(group) / size)
    ends = [-(-number * len(group) // count) for number in range(count + 1)]
    return (group[start:end] for start, end in pairwise(ends))


def key_of(config: RunConfig) -> Hashable:
    """Returns what is equal for runs that can be computed as one with a run of `config`; None where there are none."""
    if config.agent["name"] == "random":
        return None
    parts = build(config)
    try:
        return batching_key(parts.agent)
    finally:
        parts.env.close()


def overrides_of(job: Sequence[Cell]) -> list[str]:
    """Returns what train.py is told: the cells' overrides and their absolute folders, valid for workers elsewhere."""
    first, *others = job
    if not others:
        return [*first.overrides, f"run_dir={_quoted(str(first.folder))}"]
    common = [
        override for override in first.overrides if all(override in other.overrides for other in others)
    ]
    own = (
        [str(cell.folder), *(override for override in cell.overrides if override not in common)]
        for cell in job
    )
    return [*common, f"pack={_listed(_listed(map(_quoted, overrides)) for overrides in own)}"]


def _listed(items: Iterable[str]) -> str:
    return f"[{','.join(items)}]"


def _quoted(text: str) -> str:
    """As Hydra reads it back."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
