"""Writes and reads the file of a checkpoint: torch's zip, opened without running code from it.

`torch.load(weights_only=True)` builds tensors and plain values. The checksums of the entries, which torch does not look
at, are checked before.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from isorl.configs import UserError
from isorl.experiments.terminal import explain


def to_bytes(state: dict[str, Any]) -> bytes:
    """Returns the bytes of a file with `state`: tensors, numbers, texts, lists and mappings.

    Raises:
        UserError: it holds something else, which `read` would refuse.
    """
    content = _readable(state)
    if content is None:
        name, value = next(_unreadable(state, ""))
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise UserError(
            f"No checkpoint can hold '{name}', of type {kind}: they are opened without running code from them. "
            "Make it a tensor (torch.from_numpy), a number (float(...)), a text, or a list or dict of these."
        )
    return content


def _readable(value: Any) -> bytes | None:
    """The bytes of a file with `value`, if `read` would open it."""
    file = io.BytesIO()
    try:
        torch.save(value, file)
    except MemoryError:
        raise
    except Exception:  # whatever pickle meets in objects of others
        return None
    file.seek(0)
    foreign = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    return None if foreign else file.getvalue()


def _unreadable(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every innermost part that `read` would refuse, and its name."""
    parts = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list | tuple)
        else ()
    )
    found = [
        each
        for key, part in parts
        if _readable(part) is None
        for each in _unreadable(part, f"{name}/{key}".strip("/"))
    ]
    yield from found or [(name, value)]


def read(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Reads from `path` what `to_bytes` was given.

    Raises:
        UserError: the file is missing, damaged, or holds anything but tensors and plain values.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}.") from None
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"'{damaged}' has another checksum")
        state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except Exception as error:  # whatever a damaged or hostile file provokes
        raise UserError(f"'{path}' is damaged or no checkpoint: {explain(error)}") from None
    if not isinstance(state, dict):
        raise UserError(
            f"'{path}' holds a {type(state).__name__}, where the parts of a checkpoint were expected."
        )
    return state
