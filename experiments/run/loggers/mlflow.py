"""Writes to MLflow; MLFLOW_TRACKING_URI says where, MLFLOW_EXPERIMENT_NAME in which experiment."""

from __future__ import annotations

import os
import re
import time
from typing import Any, ClassVar

from isorl.experiments.run.loggers.base import LOGGERS, Description, RunLogger, group_of, name_of

MAX_METRICS = 1_000
"""Metrics and, a tenth of it, parameters that MLflow takes at once."""


def metric_name(key: str) -> str:
    """Returns `key` as MLflow takes it: a dot before the layer, or its file would have to be a folder, too.

    Every character that MLflow does not take becomes "_".
    """
    plain = re.sub(r"[^\w\-. /:]", "_", key)
    head, _, layer = plain.rpartition("/")
    return f"{head}.{layer}" if plain.count("/") > 2 else plain


@LOGGERS.register("mlflow")
class MLflow(RunLogger):
    """Logs numbers over the agent step; a resumed run goes on where its folder's tag is found."""

    requires: ClassVar[str | None] = "mlflow"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        from mlflow import MlflowClient

        self._client = MlflowClient()
        folder = str(self.folder.absolute())
        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "isorl"))
        escaped = folder.replace("'", "\\'")
        known = self._client.search_runs([experiment], f"tags.isorl_folder = '{escaped}'")
        tags = {"isorl_folder": folder, "group": group_of(self.config)}
        run = (
            known[0]
            if known
            else self._client.create_run(experiment, tags=tags, run_name=name_of(self.folder))
        )
        self._id = run.info.run_id

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        return found.experiment_id if found else self._client.create_experiment(name)

    def describe(self, description: Description) -> None:
        """Logs the parameters and the whole configuration."""
        from mlflow.entities import Param

        params = [Param(key, str(value)) for key, value in description.hyperparameters.items()]
        for start in range(0, len(params), MAX_METRICS // 10):
            self._client.log_batch(self._id, params=params[start : start + MAX_METRICS // 10])
        self._client.log_text(self._id, description.config, "config.yaml")

    def write_numbers(self, values: dict[str, float], step: int) -> None:
        """Logs the numbers of a record."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(metric_name(key), value, now, step) for key, value in values.items()]
        for start in range(0, len(metrics), MAX_METRICS):
            self._client.log_batch(self._id, metrics=metrics[start : start + MAX_METRICS])

    def close(self) -> None:
        """Marks the run as ended."""
        self._client.set_terminated(self._id)
