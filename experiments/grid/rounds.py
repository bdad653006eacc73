"""Works off tuning round by round: each proposes trials of every arm and sequence and is told what they scored.

Nothing is kept between rounds but the cells: a tuning that stopped is continued by giving the same command again, whose
finished cells are skipped and whose proposals, being told the same, are the same.
"""

from __future__ import annotations

import itertools
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from isorl.agents.options import agent_options, make_methods, network_spec, optimizer_arguments
from isorl.configs import RunConfig, UserError
from isorl.configs.program import command
from isorl.configs.suite import BenchmarkConfig
from isorl.experiments import terminal
from isorl.experiments.grid import tuning
from isorl.experiments.grid.cell import Cell, State
from isorl.experiments.grid.expand import Composer, cells
from isorl.experiments.grid.grid import Grid
from isorl.experiments.grid.halving import Proposals, halving
from isorl.experiments.grid.launch import (
    STOPPED,
    UNFINISHED,
    Launcher,
    conclude,
    say_cost,
    suite_of,
    with_imports,
    work_off,
)
from isorl.experiments.grid.packs import sharing
from isorl.experiments.grid.tuning import Candidate, Trial, candidates
from isorl.experiments.run.experiment import build, methods_of
from isorl.experiments.run.stopping import interrupted_once
from isorl.experiments.terminal import say

COMMANDS = ("benchmark=", "benchmark.", "dry_run=")
"""Beginnings of the overrides that are not for the cells."""
NO_SCHEDULE = ("agent.learning_rate=", "optimizer.")
"""Beginnings of settings that do not change when a method acts."""
Key = tuple[str, str]
"""(sequence, arm)"""


def tune(config: DictConfig, overrides: Sequence[str], launcher: Launcher) -> int:
    """Tunes the benchmark of `config` by successive halving over its spaces; returns the exit code."""
    suite, composer = suite_of(config), Composer()
    assert suite is not None
    assert suite.tuning is not None
    overrides = with_imports(suite, overrides)
    judge, proposals, with_more = _Judge(suite, of_cells(overrides), composer), {}, False
    for key in itertools.product(suite.sequences, suite.arms):
        first = judge.first(*key)
        with_more |= len(first) < suite.tuning.budget
        proposals[key] = halving(suite.tuning, key[1], first, partial(judge.is_possible, *key))
    rounds = len(suite.tuning.rungs or [0]) + with_more
    return work_off_rounds(config, overrides, launcher, composer, proposals, rounds)


def of_cells(overrides: Sequence[str]) -> list[str]:
    """Returns the overrides that are for the cells."""
    return [override for override in overrides if not override.lstrip("+~").startswith(COMMANDS)]


@dataclass
class _Judge:
    """Says which candidates are worth a run."""

    suite: BenchmarkConfig
    fixed: Sequence[str]
    composer: Composer
    _known: dict[tuple[str, ...], bool] = field(default_factory=dict)

    def first(self, sequence: str, arm: str) -> list[Candidate]:
        """Returns the candidates of `arm` but those of which a method does nothing: they would be another arm's."""
        assert self.suite.tuning is not None
        found = [c for c in candidates(self.suite.tuning, arm) if self._acts(sequence, arm, c)]
        if not found:
            raise UserError(
                f"benchmark.tuning: whatever is tried, the methods of '{arm}' do nothing on '{sequence}': the runs end "
                "before they first act. Lengthen the runs in benchmark.tuning.of_sequence, or try others in of_arm."
            )
        return found

    def is_possible(self, sequence: str, arm: str, candidate: Candidate) -> bool:
        """Whether a run can be made of a candidate, and would have its methods act."""
        try:
            config = self._config(sequence, arm, candidate)
            agent_options(config)
            optimizer_arguments(config, network_spec(config))
            make_methods(config)
            return self._acts(sequence, arm, candidate)
        except (UserError, ValueError):
            return False

    def _acts(self, sequence: str, arm: str, candidate: Candidate) -> bool:
        schedule = tuple(setting for setting in candidate if not setting.startswith(NO_SCHEDULE))
        key = (sequence, arm, *schedule)
        if key not in self._known:
            config = self._config(sequence, arm, schedule)
            run = build(config) if config.method else None
            self._known[key] = run is None or all(
                method["acts"] for method in methods_of(config, run).values()
            )
            if run is not None:
                run.env.close()
        return self._known[key]

    def _config(self, sequence: str, arm: str, candidate: Candidate) -> RunConfig:
        assert self.suite.tuning is not None
        trial = Trial(sequence, arm, candidate, self.suite.tuning.seeds[:1])
        (request,) = tuning.requests(self.suite, trial, self.fixed)
        return self.composer(request.overrides)


def work_off_rounds(
    config: DictConfig,
    overrides: Sequence[str],
    launcher: Launcher,
    composer: Composer,
    proposals: Mapping[Key, Proposals],
    rounds: int,
) -> int:
    """Works off what is proposed until nothing more is; writes tuned.yaml and trials.csv; returns the exit code.

    Args:
        config: of the sweep as Hydra composed it.
        overrides: of the command line.
        launcher: runs the jobs.
        composer: turns overrides into configurations.
        proposals: of every sequence and arm, all of equally many rounds.
        rounds: as many.

    Raises:
        UserError: whatever in the overrides or in the benchmark cannot work, before anything is written.
    """
    suite, console, root = (
        suite_of(config),
        terminal.console(stderr=True),
        Path(config.hydra.sweep.dir).absolute(),
    )
    assert suite is not None
    fixed, jobs = of_cells(overrides), sharing(config, composer)
    made: dict[tuple[str, str], Cell] = {}  # by arm and cell: two arms may try the same
    proposed = {key: next(proposal) for key, proposal in proposals.items()}
    number, stopped = 0, False
    with interrupted_once():
        while proposed:
            number += 1
            trials = {key: [Trial(*key, *trial) for trial in found] for key, found in proposed.items()}
            now = _cells(suite, trials, fixed, root, composer)
            made |= {(cell.arm, cell.id): cell for found in now.values() for cell in found}
            unique = list({cell.id: cell for found in now.values() for cell in found}.values())
            name = suite.name if rounds == 1 else f"{suite.name}, round {number} of {rounds}"
            if number == 1 or any(cell.state() is not State.FINISHED for cell in unique):
                say_cost(name, unique, config, composer, jobs, console)
            if any(override.lower() == "dry_run=true" for override in overrides):
                return 0
            typed = f"{command('train')} {shlex.join(sys.argv[1:])}"
            every = list({cell.id: cell for cell in made.values()}.values())
            grid = Grid(f"{suite.name}-tune", every, typed, f"candidates of {suite.name}")
            folder = grid.save(root)
            stopped = work_off(unique, launcher, jobs)
            chosen = tuning.choose(list(made.values()))
            before = tuning.tuned_before(folder / "tuned.yaml", suite)
            tuning.save_trials(folder / "trials.csv", list(made.values()), chosen, before)
            if stopped or any(cell.state() not in (State.FINISHED, State.FAILED) for cell in unique):
                conclude(grid, folder, stopped, console)
                return STOPPED if stopped else UNFINISHED
            proposed = _told(proposals, trials, now)
    tuning.save(folder / "tuned.yaml", suite, chosen)
    say(f"Settings chosen with equal budgets: {folder / 'tuned.yaml'}; every trial: {folder / 'trials.csv'}")
    return conclude(grid, folder, False, console)


def _cells(
    suite: BenchmarkConfig,
    trials: Mapping[Key, Sequence[Trial]],
    fixed: Sequence[str],
    root: Path,
    composer: Composer,
) -> dict[Trial, list[Cell]]:
    return {
        trial: cells(tuning.requests(suite, trial, fixed), (), root, composer)
        for found in trials.values()
        for trial in map(_hashable, found)
    }


def _hashable(trial: Trial) -> Trial:
    return trial._replace(seeds=tuple(trial.seeds))


def _told(
    proposals: Mapping[Key, Proposals],
    trials: Mapping[Key, Sequence[Trial]],
    now: Mapping[Trial, Sequence[Cell]],
) -> dict[Key, Any]:
    """Tells every proposal what its trials scored; returns what is proposed next, of those that go on."""
    following = {}
    for key, found in trials.items():
        scores = {
            trial.candidate: float(np.mean([tuning.score_of_cell(cell) for cell in now[_hashable(trial)]]))
            for trial in found
        }
        try:
            following[key] = proposals[key].send(scores)
        except StopIteration:
            continue
    return following
