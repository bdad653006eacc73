"""What a logger is, and how runs are named and grouped in all of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from stable_baselines3.common.logger import KVWriter

from isorl.configs import RunConfig, UserError, nearest
from isorl.envs.sequence import Visit
from isorl.experiments.grid.cell import identity, learner
from isorl.plasticity.registry import Registry


@dataclass(frozen=True)
class Description:
    """Holds what is known of a run before it learns.

    Attributes:
        hyperparameters: flat, beginning with agent, sequence, network, optimizer, method, seed.
        config: the whole configuration as YAML.
        charts: layout of TensorBoard's Custom Scalars.
    """

    hyperparameters: Mapping[str, Any]
    config: str
    charts: Mapping[str, Any]


class RunLogger(KVWriter):
    """Base of all loggers of one run; several runs may share a process, so none is global.

    Args:
        folder: of the run.
        config: of the run.
        visit: gives the present visit.
    """

    requires: ClassVar[str | None] = None
    """The package that must be installed, an extra of isorl by the logger's name."""
    files: ClassVar[tuple[str, ...]] = ()
    """Patterns of the files in the run folder that grow with each record; resuming cuts them to the checkpoint."""

    def __init__(self, folder: Path, config: RunConfig, visit: Callable[[], Visit]) -> None:
        self.folder, self.config, self.visit = folder, config, visit

    def describe(self, description: Description) -> None:
        """Writes what is known of the run, once at its beginning."""

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Writes what was measured at the agent step `step`: numbers, spectra (tensors), figures, texts."""
        self.write_numbers(numbers(key_values), step)

    def write_numbers(self, values: dict[str, float], step: int) -> None:
        """Writes the numbers of a record; what most loggers override instead of `write`."""

    def flush(self) -> None:
        """Gets everything out of this process's hands."""

    def close(self) -> None:
        """Ends the record."""


LOGGERS: Registry[type[RunLogger]] = Registry("logger")
"""Name in `logger=[...]` -> class."""


def check_loggers(config: RunConfig) -> None:
    """Refuses loggers that there are not, or whose package is not installed.

    Raises:
        UserError: names the logger, and how to install what it needs.
    """
    for name in config.logger:
        if name not in LOGGERS:
            raise UserError(f"There is no logger '{name}'. {nearest(name, LOGGERS)}")
        package = LOGGERS[name].requires
        spec = importlib.util.find_spec(package) if package is not None else None
        if package is not None and (
            spec is None or spec.origin is None
        ):  # a folder of that name is no package
            raise UserError(
                f"logger={name} needs a package that is not installed: pip install 'isorl[{name}]'."
            )


def start(name: str, folder: Path, config: RunConfig, visit: Callable[[], Visit]) -> RunLogger:
    """Returns the logger `name` of a run.

    Raises:
        UserError: it cannot begin: no login, no server, ...
    """
    try:
        return LOGGERS[name](folder, config, visit)
    except OSError:
        raise  # of the run folder's disk
    except Exception as error:
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise UserError(f"logger={name} cannot begin: {reason}") from error


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Returns the finite numbers among `values`."""
    return {
        key: float(value)
        for key, value in values.items()
        if isinstance(value, (int, float, np.number)) and np.isfinite(value)
    }


def name_of(folder: Path) -> str:
    """Returns the name of a run for its readers: the last two parts of its folder."""
    return "/".join(folder.absolute().parts[-2:])


def group_of(config: RunConfig) -> str:
    """Returns the name of a run's group: runs that differ in their seed alone share one, as an arm of a grid does."""
    words = "-".join([*learner(config), *config.method])
    return f"{config.sequence.name} {words} {identity(replace(config, seed=0))[:6]}"
