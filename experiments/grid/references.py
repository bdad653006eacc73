"""What a result is measured against: the same learner from scratch on every task, and an agent that learns nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from isorl.configs import RunConfig, UserError, nearest
from isorl.configs.schema import DiagnosticsConfig, EvaluationConfig, NormalizeConfig, SwitchConfig


def fresh(config: RunConfig) -> RunConfig:
    """A fresh agent per task with the same budget: agent, network and optimizer as they are, all else redrawn.

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
    """The uniformly random agent on the same tasks; it has no network, so only sequence and seed tell it apart."""
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
"""Value of `reference` -> the run that it stands for."""


def referred(config: RunConfig, reference: str | None) -> RunConfig:
    """`config`, or the reference run that belongs to it.

    Raises:
        UserError: an unknown reference.
    """
    if reference is None:
        return config
    if reference not in REFERENCES:
        raise UserError(f"There is no reference '{reference}'. {nearest(reference, REFERENCES)}")
    return REFERENCES[reference](config)
