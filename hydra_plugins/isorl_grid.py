"""How `train.py -m` sweeps.

Hydra looks for its plugins in a package of this name and imports them at every start: nothing heavy here.
"""

from __future__ import annotations

import sys
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class GridSweeper(Sweeper):
    """Hands the words of a sweep to agents/grid/launch.py, with Hydra's launcher of the user's choice."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Makes the launcher."""
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Works off the grid; ends the process with its exit code."""
        from agents.grid.launch import launch, refuse
        from configs import UserError

        try:
            sys.exit(launch(self.config, arguments, self.launcher))
        except UserError as error:
            refuse(error)


class OptunaGridSweeper(GridSweeper):
    """The same by agents/grid/search.py, where Optuna proposes the settings of a benchmark's arms."""

    def sweep(self, arguments: list[str]) -> Any:
        """Works off the search; ends the process with its exit code."""
        from agents.grid.launch import refuse
        from agents.grid.search import search
        from configs import UserError

        try:
            sys.exit(search(self.config, arguments, self.launcher))
        except UserError as error:
            refuse(error)
