"""From the words of a sweep or a benchmark to its cells.

Every cell is composed and checked here, before anything runs; one mistake anywhere stops the grid at the start.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from isorl.agents.options import agent_options
from isorl.configs import RunConfig, UserError
from isorl.configs.command_line import composed, resolve
from isorl.configs.suite import BenchmarkConfig
from isorl.envs.sequence import Sequence as TaskSequence
from isorl.experiments.grid.cell import Cell, folder_of, identity, learner
from isorl.experiments.grid.references import referred

SEED = "seed="
OPEN = "?"
"""The run_dir of a cell for which the user chose none."""
ONE_RUN_ONLY = ("resume", "play")


@dataclass(frozen=True)
class Wanted:
    """What one cell should be: its words, and its place in the grid."""

    words: tuple[str, ...]
    sequence: str
    arm: str
    seed: int


@dataclass
class Composer:
    """Words -> checked configuration; cells that differ in their seed alone are composed once."""

    _composed: dict[tuple[str, ...], DictConfig] = field(default_factory=dict)

    def __call__(self, words: Sequence[str]) -> RunConfig:
        """The typed configuration, of a reference run where the words say so.

        Raises:
            UserError: a word that cannot be composed, or a value that cannot work.
        """
        seeds = [word for word in words if word.startswith(SEED)]
        rest = tuple(word for word in words if not word.startswith(SEED))
        if rest not in self._composed:
            self._composed[rest] = composed([f"run_dir='{OPEN}'", *rest])
        config = self._composed[rest].copy()
        if seeds:
            config.seed = _seed(seeds[-1])
        return referred(resolve(config), config.reference)


def _seed(word: str) -> int:
    try:
        return int(word.removeprefix(SEED))
    except ValueError:
        raise UserError(f"'{word}': a seed is a whole number.") from None


Settings = Mapping[tuple[str, str], Sequence[str]]
"""(sequence, arm) -> words."""


def of_benchmark(
    suite: BenchmarkConfig, words: Iterable[str], settings: Settings | None = None
) -> list[Wanted]:
    """Arms x sequences x seeds; the user's `words` come last, and sweeps among them multiply the arms."""
    further = list(split(words))
    if any(word.startswith(SEED) for added in further for word in added):
        raise UserError("The seeds of a benchmark are benchmark.seeds=[...], not seed=...")
    return [
        Wanted(
            words=merged(
                *suite.words,
                *sequence_words,
                *arm_words,
                *(settings or {}).get((sequence, arm), ()),
                *added,
                f"{SEED}{seed}",
            ),
            sequence=sequence,
            arm=arm if len(further) == 1 else " ".join([arm, *_varied(added, further)]),
            seed=seed,
        )
        for seed in suite.seeds  # whole replications first: an unfinished grid is a smaller one
        for sequence, sequence_words in suite.sequences.items()
        for arm, arm_words in suite.arms.items()
        for added in further
    ]


def merged(*words: str) -> tuple[str, ...]:
    """The last word of each key: Hydra would refuse two choices for one group."""
    return tuple({word.partition("=")[0].lstrip("+"): word for word in words}.values())


def of_sweep(words: Iterable[str]) -> list[Wanted]:
    """Every combination of a plain `-m` sweep; an arm is what varies besides sequence and seed."""
    jobs = list(split(words))
    return [
        Wanted(
            words=tuple(job),
            sequence=next((word.partition("=")[2] for word in job if word.startswith("sequence=")), ""),
            arm=" ".join(word for word in _varied(job, jobs) if not word.startswith((SEED, "sequence="))),
            seed=next((_seed(word) for word in reversed(job) if word.startswith(SEED)), 0),
        )
        for job in jobs
    ]


def split(words: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Every combination of the values of swept words, as Hydra's own sweeper makes them."""
    parsed = OverridesParser.create().parse_overrides(list(words))
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
    """The words of `job` that not all `jobs` have."""
    common = functools.reduce(set.intersection, map(set, jobs), set(jobs[0]))
    return [word for word in job if word not in common]


def cells(wanted: Iterable[Wanted], references: Iterable[str], root: Path, composer: Composer) -> list[Cell]:
    """The cells of a grid: each wanted one, and each reference once.

    Raises:
        UserError: a configuration that cannot work, or two cells that would write to one run_dir.
    """
    found: dict[str, Cell] = {}
    kinds = [kind for kind in ("fresh", "random") if kind in references]
    for want in wanted:
        config = composer(want.words)
        refs = [_cell(replace(want, arm=kind), referred(config, kind), root, kind) for kind in kinds]
        ids = {reference.kind: reference.id for reference in refs}
        for cell in (_cell(want, config, root, "arm"), *refs):
            cell = replace(cell, fresh=ids.get("fresh", ""), random=ids.get("random", ""))
            if cell.id not in found or cell.kind == "arm":  # an arm may be a reference, too
                found[cell.id] = cell
    _check_apart(found.values())
    return list(found.values())


def _cell(want: Wanted, config: RunConfig, root: Path, kind: str) -> Cell:
    words = tuple(word for word in want.words if not word.startswith("run_dir="))
    if kind != "arm":
        words = (*words, f"reference={kind}")
    chosen = config.run_dir != OPEN and kind == "arm"
    folder = Path(config.run_dir) if chosen else folder_of(config, root)
    return Cell(
        id=identity(config),
        folder=folder.absolute(),
        words=words,
        sequence=want.sequence or config.sequence.name,
        arm=want.arm if kind == "arm" else " ".join([kind, *learner(config)[1:]]),
        seed=config.seed,
        agent_steps=_agent_steps(config),
        kind=kind,
    )


def _agent_steps(config: RunConfig) -> int:
    n_envs = 1 if config.agent["name"] == "random" else agent_options(config).n_envs
    return TaskSequence.from_config(config.sequence, config.seed, n_envs).agent_steps


def _check_apart(made: Iterable[Cell]) -> None:
    owner: dict[Path, Cell] = {}
    for cell in made:
        other = owner.setdefault(cell.folder, cell)
        if other is not cell:
            raise UserError(
                f"run_dir '{cell.folder}' would hold two cells of the grid ('{' '.join(other.words)}' and "
                f"'{' '.join(cell.words)}'). Leave run_dir out: every cell then gets a folder of its own."
            )
