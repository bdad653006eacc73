"""Holds Hydra's sweepers of this project, by which `-m` sweeps; imported at every start, so nothing heavy is here."""

from __future__ import annotations

import sys
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

PLUGINS = "hydra_plugins.isorl"
"""Name by which Hydra finds this module: it instantiates plugins of the package hydra_plugins alone."""


class GridSweeper(Sweeper):
    """Hands the overrides of a sweep to experiments/grid/launch.py, with Hydra's launcher of the user's choice."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Makes the launcher of the user's choice."""
        self.config: Any = config
        self.hydra_context = hydra_context
        self.launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Works off the grid; ends the process with its exit code."""
        from isorl.configs import UserError
        from isorl.experiments.grid.launch import launch, refuse, suite_of
        from isorl.experiments.grid.rounds import tune

        try:
            suite = suite_of(self.config)
            work = tune if suite is not None and suite.stage == "tune" else launch
            sys.exit(work(self.config, arguments, self.launcher))
        except UserError as error:
            refuse(error)


class OptunaGridSweeper(GridSweeper):
    """Hands the overrides of a search to experiments/grid/search.py, where Optuna proposes an arm's settings."""

    def sweep(self, arguments: list[str]) -> Any:
        """Works off the search; ends the process with its exit code."""
        from isorl.configs import UserError
        from isorl.experiments.grid.launch import refuse
        from isorl.experiments.grid.search import search

        try:
            sys.exit(search(self.config, arguments, self.launcher))
        except UserError as error:
            refuse(error)


def register() -> None:
    """Makes both sweepers known to Hydra, which by itself looks into the package hydra_plugins alone."""
    sys.modules[PLUGINS] = sys.modules[__name__]
    for sweeper in (GridSweeper, OptunaGridSweeper):
        sweeper.__module__ = PLUGINS
        Plugins.instance().register(sweeper)
