"""Writes to Weights & Biases; WANDB_PROJECT, WANDB_MODE=offline and its other variables hold."""

from __future__ import annotations

import hashlib
import os
from typing import Any, ClassVar

from torch import Tensor

from isorl.experiments.run.loggers.base import LOGGERS, Description, RunLogger, group_of, name_of, numbers


@LOGGERS.register("wandb")
class WeightsAndBiases(RunLogger):
    """Logs numbers and spectra over the agent step; a resumed run goes on under its old id."""

    requires: ClassVar[str | None] = "wandb"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        import wandb

        self._histogram = wandb.Histogram
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "isorl"),
            id=hashlib.sha256(str(self.folder.absolute()).encode()).hexdigest()[:12],
            name=name_of(self.folder),
            group=group_of(self.config),
            dir=str(self.folder),
            resume="allow",
            reinit="create_new",  # several runs may share a process
        )
        self._run.define_metric("*", step_metric="agent_step")

    def describe(self, description: Description) -> None:
        """Sets the run's config."""
        self._run.config.update(dict(description.hyperparameters), allow_val_change=True)

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Logs numbers, and spectra as histograms."""
        spectra = {
            key: self._histogram(finite.tolist())
            for key, value in key_values.items()
            if isinstance(value, Tensor) and len(finite := value[value.isfinite()])
        }
        self._run.log({**numbers(key_values), **spectra, "agent_step": step})

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()
