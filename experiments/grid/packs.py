"""Which cells of a grid share a process: those with small networks that differ in no size.

Seeds, rates, strengths and methods may differ: every run of a pack (agents/batched) has its own.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

from omegaconf import DictConfig

from isorl.agents.batched import why_alone
from isorl.configs import RunConfig
from isorl.experiments.grid.cell import Cell
from isorl.experiments.grid.cost import at_once
from isorl.experiments.grid.expand import Composer
from isorl.experiments.run.experiment import build

SEED = "seed="
OWN = (
    SEED,
    "method=",
    "method.",
    "optimizer.",
    "agent.learning_rate",
    *(
        f"agent.{name}="
        for name in ("ent_coef", "vf_coef", "clip_range", "gamma", "gae_lambda", "max_grad_norm")
    ),
)
"""Beginnings of the overrides in which cells of one job may differ."""


def sharing(config: DictConfig, composer: Composer) -> Callable[[list[Cell]], list[list[Cell]]]:
    """From the cells that are to be done to jobs, as the launch `config` says (together=, hydra.launcher)."""
    shares = functools.cache(lambda overrides: can_share(composer(overrides)))
    workers, most = at_once(config.hydra.launcher), max(config.together, 1)
    return lambda left: packed(left, most, workers, shares)


def packed(
    cells: Sequence[Cell], most: int, workers: int | None, shares: Callable[[tuple[str, ...]], bool]
) -> list[list[Cell]]:
    """Returns the jobs of a launch, each with its cells.

    Args:
        cells: what is to be done.
        most: cells in one job, at most.
        workers: jobs that run at a time, none of which should be left without work; None: unknown.
        shares: whether cells of such overrides, whatever their seed, can be computed together.
    """
    size = min(most, math.ceil(len(cells) / workers)) if workers else most
    alike: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        alike.setdefault(_without(OWN, cell), []).append(cell)
    jobs: list[list[Cell]] = []
    for group in alike.values():
        several, together = size > 1 and len(group) > 1, []
        for cell in group:
            if several and shares(_without(SEED, cell)):
                together.append(cell)
            else:
                jobs.append([cell])
        jobs += _parts(together, size) if together else []
    return jobs


def _without(beginnings: str | tuple[str, ...], cell: Cell) -> tuple[str, ...]:
    """The cell's overrides but those that begin so."""
    return tuple(override for override in cell.overrides if not override.startswith(beginnings))


def _parts(group: list[Cell], size: int) -> Iterator[list[Cell]]:
    """`group` in parts of nearly the same size, which is `size` at most; neighbours stay together."""
    count = math.ceil(len(group) / size)
    ends = [-(-number * len(group) // count) for number in range(count + 1)]
    return (group[start:end] for start, end in pairwise(ends))


def can_share(config: RunConfig) -> bool:
    """Returns whether runs of `config` with other seeds can be computed as one with it."""
    if config.agent["name"] == "random":
        return False
    parts = build(config)
    try:
        return why_alone(parts.agent) is None
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
