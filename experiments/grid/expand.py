"""Turns the overrides of a sweep or a benchmark into its cells; an *override* is one KEY=VALUE of train.py.

Every cell is composed and checked here, before anything runs; one mistake anywhere stops the grid at the start.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from isorl.agents.options import agent_options
from isorl.configs import RunConfig, UserError, played
from isorl.configs.command_line import composed, resolve
from isorl.configs.suite import BenchmarkConfig
from isorl.envs.sequence import Sequence as TaskSequence
from isorl.experiments.grid.cell import Cell, folder_of, identity, learner
from isorl.experiments.grid.references import referred

SEED = "seed="
VALUE = re.compile(r"\w+\.[\w.]+=")
"""Matches the beginning of an override that gives a value and chooses no part of the configuration."""
OPEN = "?"
"""Stands for the run_dir of a cell for which the user chose none."""
OF_A_SEQUENCE = ("sequence.", *(f"{key}=" for key in played.KEYS), *(f"{key}." for key in played.KEYS))
"""How overrides begin that change what is played."""
ONE_RUN_ONLY = ("resume", "play")


@dataclass(frozen=True)
class RunRequest:
    """Says what one cell should be: its overrides, and its place in the grid."""

    overrides: tuple[str, ...]
    sequence: str
    arm: str


@dataclass
class Composer:
    """Turns overrides into a checked configuration.

    Hydra composes once for all cells that choose the same parts, and cells that differ in their seed alone are
    checked once.
    """

    _composed: dict[tuple[str, ...], DictConfig] = field(default_factory=dict)
    _resolved: dict[tuple[str, ...], RunConfig] = field(default_factory=dict)

    def __call__(self, overrides: Sequence[str]) -> RunConfig:
        """Returns the typed configuration, of a reference run where the overrides say so.

        Raises:
            UserError: an override that cannot be composed, or a value that cannot work.
        """
        seeds = [override for override in overrides if override.startswith(SEED)]
        rest = tuple(override for override in overrides if not override.startswith(SEED))
        if rest not in self._resolved:
            whole = self._whole(rest)
            if "${seed" in OmegaConf.to_yaml(whole):  # a folder's name, for example
                whole.seed = _seed(seeds[-1]) if seeds else whole.seed
                return _checked(whole)
            self._resolved[rest] = _checked(whole)
        config = copy.deepcopy(self._resolved[rest])
        return replace(config, seed=_seed(seeds[-1])) if seeds else config

    def _whole(self, overrides: Sequence[str]) -> DictConfig:
        """Puts values (A.B=VALUE) into what Hydra composes of the other overrides, as Hydra does."""
        values = [override for override in overrides if VALUE.match(override)]
        choices = tuple(override for override in overrides if override not in values)
        if choices not in self._composed:
            self._composed[choices] = composed([f"run_dir='{OPEN}'", *choices])
        config = self._composed[choices].copy()
        try:
            for value in OverridesParser.create().parse_overrides(values):
                OmegaConf.update(config, value.key_or_group, value.value(), merge=True)
        except (HydraException, OmegaConfBaseException):
            return composed([f"run_dir='{OPEN}'", *overrides])  # which says what is wrong
        return config


def _checked(config: DictConfig) -> RunConfig:
    return referred(resolve(config), config.reference)


def _seed(override: str) -> int:
    try:
        return int(override.removeprefix(SEED))
    except ValueError:
        raise UserError(f"'{override}': a seed is a whole number.") from None


Settings = Mapping[tuple[str, str], Sequence[str]]
"""Maps (sequence, arm) to overrides."""


def requests_of_benchmark(
    suite: BenchmarkConfig, overrides: Iterable[str], settings: Settings | None = None
) -> list[RunRequest]:
    """Returns a request for each arm, sequence and seed of a benchmark.

    The user's `overrides` come last, and sweeps among them multiply the arms.
    """
    further = list(split(overrides))
    if any(override.startswith(SEED) for added in further for override in added):
        raise UserError("The seeds of a benchmark are benchmark.seeds=[...], not seed=...")
    return [
        RunRequest(
            overrides=merged(
                *suite.words,
                *sequence_overrides,
                *arm_overrides,
                *(settings or {}).get((sequence, arm), ()),
                *added,
                f"{SEED}{seed}",
            ),
            sequence=sequence,
            arm=arm if len(further) == 1 else " ".join([arm, *_varied(added, further)]),
        )
        for seed in suite.seeds  # whole replications first: an unfinished grid is a smaller one
        for sequence, sequence_overrides in suite.sequences.items()
        for arm, arm_overrides in suite.arms.items()
        for added in further
    ]


def merged(*overrides: str) -> tuple[str, ...]:
    """Keeps the last override of each key: Hydra would refuse two choices for one group."""
    return tuple({override.partition("=")[0].lstrip("+"): override for override in overrides}.values())


def requests_of_sweep(overrides: Iterable[str]) -> list[RunRequest]:
    """Returns every combination of a plain `-m` sweep; an arm is what varies besides sequence and seed.

    What varies within the sequence, its game or its length, makes another sequence.
    """
    jobs = list(split(overrides))
    return [
        RunRequest(
            overrides=tuple(job),
            sequence=" ".join(
                [
                    *(override.partition("=")[2] for override in job if override.startswith("sequence=")),
                    *(override for override in _varied(job, jobs) if override.startswith(OF_A_SEQUENCE)),
                ]
            ),
            arm=" ".join(
                override
                for override in _varied(job, jobs)
                if not override.startswith((SEED, "sequence=", *OF_A_SEQUENCE))
            ),
        )
        for job in jobs
    ]


def split(overrides: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Yields every combination of the values of swept overrides, as Hydra's own sweeper makes them."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    for override in parsed:
        if override.key_or_group in ONE_RUN_ONLY:
            raise UserError(
                f"'{override.key_or_group}' is for one run; leave out -m. A grid that stopped is continued by giving "
                "the same command again."
            )
        if override.is_sweep_override() and not override.is_discrete_sweep():
            raise UserError(f"'{override.input_line}' has no list of values; a grid needs one: KEY=a,b,c.")
    for job in BasicSweeper.split_arguments(parsed, None)[0]:
        yield tuple(job)


def _varied(job: Sequence[str], jobs: Sequence[Sequence[str]]) -> list[str]:
    """The overrides of `job` that not all `jobs` have."""
    common = functools.reduce(set.intersection, map(set, jobs), set(jobs[0]))
    return [override for override in job if override not in common]


def cells(
    requests: Iterable[RunRequest], references: Iterable[str], root: Path, composer: Composer
) -> list[Cell]:
    """Returns the cells of a grid: one for each request, and each reference once.

    Raises:
        UserError: a configuration that cannot work, or two cells that would write to one run_dir.
    """
    found: dict[str, Cell] = {}
    kinds = [kind for kind in ("fresh", "random") if kind in references]
    for request in requests:
        config = composer(request.overrides)
        own_kind = "random" if config.agent["name"] == "random" else "arm"  # reference=random needs no other
        refs = [_reference(request, config, root, kind) for kind in kinds if own_kind == "arm"]
        ids = {reference.kind: reference.id for reference in refs}
        for cell in (_cell(request, config, root, own_kind), *refs):
            cell = replace(cell, fresh=ids.get("fresh", ""), random=ids.get("random", ""))
            if cell.id not in found or cell.kind == "arm":  # an arm may be a reference, too
                found[cell.id] = cell
    _check_apart(found.values())
    return list(found.values())


def _cell(request: RunRequest, config: RunConfig, root: Path, kind: str) -> Cell:
    folder = folder_of(config, root) if config.run_dir == OPEN else Path(config.run_dir)
    return Cell(
        id=identity(config),
        folder=folder.absolute(),
        overrides=tuple(override for override in request.overrides if not override.startswith("run_dir=")),
        sequence=request.sequence or config.sequence.name,
        arm=request.arm,
        seed=config.seed,
        agent_steps=_agent_steps(config),
        kind=kind,
    )


def _reference(request: RunRequest, config: RunConfig, root: Path, kind: str) -> Cell:
    config = replace(referred(config, kind), run_dir=OPEN)
    arm = " ".join([kind, *learner(config)[1:]])
    overrides = (*request.overrides, f"reference={kind}")
    return _cell(replace(request, overrides=overrides, arm=arm), config, root, kind)


def _agent_steps(config: RunConfig) -> int:
    n_envs = 1 if config.agent["name"] == "random" else agent_options(config).n_envs
    return TaskSequence.from_config(config.sequence, config.seed, n_envs).agent_steps


def _check_apart(made: Iterable[Cell]) -> None:
    owner: dict[Path, Cell] = {}
    for cell in made:
        other = owner.setdefault(cell.folder, cell)
        if other is not cell:
            raise UserError(
                f"run_dir '{cell.folder}' would hold two cells of the grid ('{' '.join(other.overrides)}' and "
                f"'{' '.join(cell.overrides)}'). Leave run_dir out: every cell then gets a folder of its own."
            )
