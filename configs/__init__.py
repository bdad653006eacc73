"""What a run is: YAML files by group, and the dataclasses they must fit. Imports nothing else of the project."""

from isorl.configs.errors import UserError, nearest
from isorl.configs.schema import RunConfig, SequenceConfig, TaskConfig
from isorl.configs.typed import typed

__all__ = ["RunConfig", "SequenceConfig", "TaskConfig", "UserError", "nearest", "typed"]
