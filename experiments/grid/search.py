"""Lets Optuna (Akiba et al. 2019, arXiv 1907.10902) propose settings instead of a list: `hydra/sweeper=optuna`.

Every arm has a study of its own on every sequence, with the same sampler, the same number of trials and the same seeds.
A round is one trial of each study, worked off like any other grid; so a search that stopped is continued by giving the
same command again: its finished cells are skipped, and the sampler, being told the same, proposes the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from isorl.configs import UserError
from isorl.configs.suite import BenchmarkConfig, TuningConfig
from isorl.experiments.grid.expand import Composer
from isorl.experiments.grid.halving import Proposals
from isorl.experiments.grid.launch import Launcher, suite_of, with_imports
from isorl.experiments.grid.rounds import of_cells, work_off_rounds
from isorl.experiments.grid.tuning import Candidate, or_least, space_of, text

HOW = "\n  isorl train -m +benchmark=NAME benchmark.stage=tune hydra/sweeper=optuna 'KEY=interval(a,b)'"


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
    overrides, composer = with_imports(suite, overrides), Composer()
    fixed, swept = _parted(of_cells(overrides))
    proposals = {
        (sequence, arm): _proposed(budget, {**_listed(budget, arm), **swept})
        for sequence in suite.sequences
        for arm in suite.arms
    }
    commands = [override for override in overrides if override not in of_cells(overrides)]
    return work_off_rounds(config, [*commands, *fixed], launcher, composer, proposals, budget.budget)


def _proposed(tuning_config: TuningConfig, space: Mapping[str, Any]) -> Proposals:
    """Proposes one candidate a round, on all seeds, as Optuna does after what it has seen."""
    study, distributions = _study(tuning_config, space)
    for _ in range(tuning_config.budget):
        trial = study.ask(distributions)
        candidate = _overrides(trial.params)
        scores = yield [(candidate, tuning_config.seeds)]
        study.tell(trial, or_least(scores[candidate]))


def _overrides(params: Mapping[str, Any]) -> Candidate:
    """Writes numbers to four digits: enough for any setting, and readable."""
    return tuple(
        f"{key}={f'{value:.4g}' if isinstance(value, float) else value}" for key, value in params.items()
    )


def _suite(config: DictConfig) -> tuple[BenchmarkConfig, TuningConfig]:
    suite = suite_of(config)
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


def _listed(tuning_config: TuningConfig, arm: str) -> dict[str, list[str]]:
    """The lists of benchmark.tuning for `arm`, as overrides."""
    return {key: [text(value) for value in values] for key, values in space_of(tuning_config, arm).items()}


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
