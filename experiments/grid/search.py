"""Lets Optuna (Akiba et al. 2019, arXiv 1907.10902) propose settings instead of a list: `hydra/sweeper=optuna`.

Every arm has a study of its own on every sequence, with the same sampler, the same number of trials and the same seeds.
A round is one trial of each study, worked off like any other grid; so a search that stopped is continued by giving the
same command again: its finished cells are skipped, and the sampler, being told the same, proposes the same.
"""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from isorl.configs import UserError, typed
from isorl.configs.program import command
from isorl.configs.suite import BenchmarkConfig, TuningConfig
from isorl.experiments import terminal
from isorl.experiments.grid import tuning
from isorl.experiments.grid.cell import CANDIDATE, Cell, State
from isorl.experiments.grid.expand import Composer, cells, requests_of_benchmark
from isorl.experiments.grid.grid import Grid
from isorl.experiments.grid.launch import (
    STOPPED,
    UNFINISHED,
    Launcher,
    conclude,
    say_cost,
    with_imports,
    work_off,
)
from isorl.experiments.grid.packs import sharing
from isorl.experiments.terminal import say

HOW = "\n  isorl train -m +benchmark=NAME benchmark.stage=tune hydra/sweeper=optuna 'KEY=interval(a,b)'"
COMMANDS = ("benchmark=", "benchmark.", "dry_run=")
"""Beginnings of the overrides that are not for the cells."""


def search(config: DictConfig, overrides: Sequence[str], launcher: Launcher) -> int:
    """Tunes the benchmark of `config`, writes tuned.yaml when every trial has a score; returns the exit code.

    Args:
        config: of the sweep as Hydra composed it.
        overrides: of the command line; the swept ones are the space, beside benchmark.tuning.space.
        launcher: runs the jobs.

    Raises:
        UserError: Optuna is missing, there is nothing to tune, or a value cannot work.
    """
    suite, budget = _suite(config)
    console, root, composer = (
        terminal.console(stderr=True),
        Path(config.hydra.sweep.dir).absolute(),
        Composer(),
    )
    overrides = with_imports(suite, overrides)
    fixed, swept = _parted(
        [override for override in overrides if not override.lstrip("+").startswith(COMMANDS)]
    )
    studies = {
        (sequence, arm): _study(budget, {**_listed(suite.tuning, arm), **swept})
        for sequence in suite.sequences
        for arm in suite.arms
    }
    made: list[Cell] = []
    jobs = sharing(config, composer)
    for number in range(budget.budget):
        trials = [_Trial(key, study.ask(space)) for key, (study, space) in studies.items()]
        by_trial = [_cells(suite, trial, fixed, root, composer) for trial in trials]
        now = [cell for found in by_trial for cell in found]
        made += [cell for cell in now if cell.id not in {known.id for known in made}]
        if number == 0:
            name = f"{suite.name}, the first of {budget.budget} such rounds"
            say_cost(name, now, config, composer, jobs, console)
            if any(override.lower() == "dry_run=true" for override in overrides):
                return 0
        typed_words = f"{command('train')} {shlex.join(sys.argv[1:])}"
        grid = Grid(f"{suite.name}-tune", made, typed_words, f"search of {suite.name}")
        folder = grid.save(root)
        stopped = work_off(now, launcher, jobs)
        if stopped or any(cell.state() not in (State.FINISHED, State.FAILED) for cell in now):
            conclude(grid, folder, stopped, console)
            return STOPPED if stopped else UNFINISHED
        for trial, found in zip(trials, by_trial, strict=True):
            score = float(np.mean([tuning.score_of_cell(cell) for cell in found]))
            studies[trial.key][0].tell(trial.asked, -math.inf if math.isnan(score) else score)
    tuning.save(folder / "tuned.yaml", suite, tuning.choose(made))
    say(f"Settings chosen with equal budgets: {folder / 'tuned.yaml'}")
    return conclude(grid, folder, False, console)


@dataclass(frozen=True)
class _Trial:
    """A candidate of one arm on one sequence."""

    key: tuple[str, str]
    asked: Any  # optuna.Trial

    @property
    def overrides(self) -> list[str]:
        """Numbers to four digits: enough for any setting, and readable."""
        values = self.asked.params.items()
        return [f"{key}={f'{value:.4g}' if isinstance(value, float) else value}" for key, value in values]


def _suite(config: DictConfig) -> tuple[BenchmarkConfig, TuningConfig]:
    raw = OmegaConf.to_container(config.benchmark, resolve=True) if config.get("benchmark") else None
    suite = typed(BenchmarkConfig, raw) if raw is not None else None  # type: ignore[arg-type]
    if suite is None or suite.stage != "tune" or suite.tuning is None:
        raise UserError(f"hydra/sweeper=optuna tunes the arms of a benchmark:{HOW}")
    return suite, suite.tuning


def _study(tuning: TuningConfig, space: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """An empty study, and the distributions that it draws from."""
    try:
        import optuna
    except ImportError:
        raise UserError(
            "hydra/sweeper=optuna needs a package that is not installed: pip install optuna."
        ) from None
    if not space:
        raise UserError(f"There is nothing to search: name a KEY and its values:{HOW}")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # the first third is drawn at random, the same for every arm
    sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=max(tuning.budget // 3, 1))
    return optuna.create_study(direction="maximize", sampler=sampler), {
        key: _distribution(values, optuna.distributions) for key, values in space.items()
    }


def _distribution(values: Any, kinds: Any) -> Any:
    """Of a list of overrides, or of the interval of a swept override."""
    if isinstance(values, list):
        return kinds.CategoricalDistribution(values)
    whole = isinstance(values.start, int) and isinstance(values.end, int)
    kind = kinds.IntDistribution if whole else kinds.FloatDistribution
    return kind(values.start, values.end, log="log" in values.tags)


def _listed(tuning_config: TuningConfig | None, arm: str) -> dict[str, list[str]]:
    """The lists of benchmark.tuning for `arm`, as overrides."""
    assert tuning_config is not None
    space = {**tuning_config.space, **tuning_config.of_arm.get(arm, {})}
    return {key: [tuning.text(value) for value in values] for key, values in space.items()}


def _parted(overrides: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """(fixed overrides, key of a swept override -> its values or its interval)."""
    fixed, swept = [], {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = str(override.input_line).partition("=")[0]
        if not override.is_sweep_override():
            fixed.append(str(override.input_line))
        elif override.is_interval_sweep():
            swept[key] = override.value()
        else:
            swept[key] = list(override.sweep_string_iterator())
    return fixed, swept


def _cells(
    suite: BenchmarkConfig, trial: _Trial, fixed: Sequence[str], root: Path, composer: Composer
) -> list[Cell]:
    """The candidate on every tuning seed."""
    sequence, arm = trial.key
    grid = suite.to_tune()
    one = replace(
        grid,
        arms={f"{arm}{CANDIDATE}{' '.join(trial.overrides)}": [*suite.arms[arm], *trial.overrides]},
        sequences={sequence: grid.sequences[sequence]},
    )
    return cells(requests_of_benchmark(one, fixed), (), root, composer)
