"""Defines what a result is measured against: a learner from scratch on every task, and a random agent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from isorl.configs import RunConfig, UserError, nearest
from isorl.configs.schema import DiagnosticsConfig, EvaluationConfig, NormalizeConfig, SwitchConfig


def fresh(config: RunConfig) -> RunConfig:
    """Returns the run of a fresh agent per task with the same budget, agent, network and optimizer.

    One run makes them all: at each switch every weight and moment is drawn anew, the replay emptied, exploration and
    schedules begun again and statistics forgotten. Methods are left out: they act against what a fresh agent does
    not have. Arms that differ in their methods alone share one such run.
    """
    anew = SwitchConfig(
        optimizer="reset", replay="clear", exploration="visit", learning_rate="visit", normalizer="reset"
    )
    shared = replace(config.normalize, statistics="shared")
    return replace(config, method={"full_reset": {"every": 0}}, switch=anew, normalize=shared)


def random(config: RunConfig) -> RunConfig:
    """Returns the run of a uniformly random agent on the same tasks.

    It has no network, so only sequence and seed tell one such run from another.
    """
    return replace(
        config,
        agent={"name": "random"},
        network={},
        optimizer={},
        method={},
        switch=SwitchConfig(),
        normalize=NormalizeConfig(),
        diagnostics=DiagnosticsConfig(every=0),
        evaluation=EvaluationConfig(),
        log_every=1,
    )


REFERENCES: dict[str, Callable[[RunConfig], RunConfig]] = {"fresh": fresh, "random": random}
"""Maps a value of `reference` to the run that it stands for."""


def referred(config: RunConfig, reference: str | None) -> RunConfig:
    """Returns `config`, or the reference run that belongs to it.

    Raises:
        UserError: an unknown reference.
    """
    if reference is None:
        return config
    if reference not in REFERENCES:
        raise UserError(f"There is no reference '{reference}'. {nearest(reference, REFERENCES)}")
    return REFERENCES[reference](config)
