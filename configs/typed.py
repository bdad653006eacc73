"""A mapping as it comes from YAML or the command line -> the dataclass that describes it, or a clear refusal."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

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
        reason = f"{where or 'the configuration'}: {str(error).splitlines()[0]}"
        plain = OmegaConf.to_container(OmegaConf.create(dict(values)))
        raise UserError(next(_misfits(schema, plain, where), reason)) from None  # `error` does not say where


def _misfits(kind: Any, value: Any, place: str) -> Iterator[str]:
    """Yields a sentence for each list that stands where options belong, and the other way round."""
    if isinstance(kind, UnionType):  # list[str] | None
        kind = get_args(kind)[0]
    wants_list, wants_fields = get_origin(kind) is list, dataclasses.is_dataclass(kind)
    if wants_list and isinstance(value, dict):
        yield f"'{place}' holds options, {value}, where a list was expected: [..., ...]."
    elif wants_list and isinstance(value, list):
        for number, part in enumerate(value):
            yield from _misfits(get_args(kind)[0], part, f"{place}[{number}]")
    elif (wants_fields or get_origin(kind) is dict) and isinstance(value, list):
        yield f"'{place}' is a list, {value}, where options were expected: KEY: VALUE."
    elif wants_fields and isinstance(value, dict):
        for key, hint in get_type_hints(kind).items():
            yield from _misfits(hint, value.get(key), f"{place}.{key}".lstrip("."))


def _near_child(error: OmegaConfBaseException, key: str) -> str:
    parent = error.object_type
    if dataclasses.is_dataclass(parent):
        return nearest(key, [field.name for field in dataclasses.fields(parent)])
    return ""
