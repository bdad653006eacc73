"""A mapping as it comes from YAML or the command line -> the dataclass that describes it, or a clear refusal."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException, ValidationError

from isorl.configs.errors import UserError, nearest

T = TypeVar("T")


def typed(schema: type[T], values: Mapping[str, Any] | DictConfig, where: str = "") -> T:
    """Returns an instance of the dataclass `schema` with `values`, every key and type checked.

    Args:
        schema: a dataclass, possibly nested.
        values: keys and values, for example a part of the composed configuration.
        where: the place of `values` in the configuration, for messages: "agent", "network", ...

    Raises:
        UserError: a key that does not exist, a value of the wrong type, a missing value, or a value that
            the dataclass itself refuses.
    """
    if not isinstance(values, (Mapping, DictConfig)):
        raise UserError(f"'{where}' is {values!r}, but must hold options: {where}.KEY=VALUE.")
    prefix = f"{where}." if where else ""
    known = [field.name for field in dataclasses.fields(schema)]  # type: ignore[arg-type]
    for key in map(str, values):
        if key not in known:
            raise UserError(f"'{prefix}{key}' is not an option. {nearest(key, known)}")
    try:
        shape = OmegaConf.structured(schema)
        OmegaConf.set_readonly(shape, False)  # OmegaConf takes `frozen` for "cannot be filled in"
        merged = OmegaConf.merge(shape, values)
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except MissingMandatoryValue as error:
        raise UserError(f"'{prefix}{error.full_key!s}' has no value and needs one.") from None
    except ConfigKeyError as error:
        key = str(error.key)
        raise UserError(f"'{prefix}{error.full_key!s}' is not an option. {_near_child(error, key)}") from None
    except ValidationError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"'{prefix}{error.full_key!s}' does not fit: {reason}") from None
    except OmegaConfBaseException as error:
        raise UserError(f"{where or 'the configuration'}: {str(error).splitlines()[0]}") from None


def _near_child(error: OmegaConfBaseException, key: str) -> str:
    parent = error.object_type
    if dataclasses.is_dataclass(parent):
        return nearest(key, [field.name for field in dataclasses.fields(parent)])
    return ""
