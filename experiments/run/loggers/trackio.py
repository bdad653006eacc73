"""Writes to Trackio, on this machine (`trackio show`); TRACKIO_PROJECT names the project, TRACKIO_DIR its place."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from isorl.experiments.run.loggers.base import LOGGERS, Description, RunLogger, group_of, name_of


@LOGGERS.register("trackio")
class Trackio(RunLogger):
    """Logs numbers over the agent step."""

    requires: ClassVar[str | None] = "trackio"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._config: dict[str, Any] = {}
        self._run: Any = None

    def describe(self, description: Description) -> None:
        """Notes the configuration with which the run begins."""
        self._config = dict(description.hyperparameters)

    def write_numbers(self, values: dict[str, float], step: int) -> None:
        """Logs the numbers of a record."""
        if self._run is None:
            import trackio

            self._run = trackio.init(
                project=os.environ.get("TRACKIO_PROJECT", "isorl"),
                name=name_of(self.folder),
                group=group_of(self.config),
                config=self._config,
                resume="allow",
                embed=False,
            )
        self._run.log(values, step=step)

    def close(self) -> None:
        """Ends the run."""
        if self._run is not None:
            self._run.finish()
