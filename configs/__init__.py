"""What a run is: YAML files by group, and the dataclasses they must fit. Imports nothing else of the project."""

from configs.errors import UserError, nearest
from configs.schema import RunConfig, SequenceConfig, TaskConfig
from configs.typed import typed

__all__ = ["RunConfig", "SequenceConfig", "TaskConfig", "UserError", "nearest", "typed"]
