"""Writes a run's measurements somewhere besides metrics.jsonl: one file and one registration per logger.

`logger=[tensorboard,csv]` chooses. A new one is a subclass of `RunLogger` under `@LOGGERS.register("NAME")`, in a file
here or in a module of `imports`.
"""

import importlib
import pkgutil

from isorl.experiments.run.loggers.base import LOGGERS, Description, RunLogger, check_loggers, start

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["LOGGERS", "Description", "RunLogger", "check_loggers", "start"]
