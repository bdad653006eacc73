"""Writes and reads the file of a checkpoint: torch's zip, opened only where that is safe.

`torch.load(weights_only=True)` builds tensors and plain values and never runs code. Before that, what torch leaves
unchecked is checked: the checksum of every entry, and that nothing in it unfolds to more than the file holds.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isorl.configs import UserError
from isorl.experiments.terminal import explain


def to_bytes(state: dict[str, Any]) -> bytes:
    """Returns the bytes of a file with `state`: tensors, numbers, texts, lists and mappings."""
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


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
        _check_zip(content)
        state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
        _check_values(state, len(content))
    except Exception as error:  # whatever a damaged or hostile file provokes
        raise UserError(f"'{path}' is damaged or no checkpoint: {explain(error)}") from None
    if not isinstance(state, dict):
        raise UserError(
            f"'{path}' holds a {type(state).__name__}, where the parts of a checkpoint were expected."
        )
    return state


def _check_zip(content: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed")  # torch never does; a small file could unfold to any size
        if sum(entry.file_size for entry in entries) > len(content):
            raise ValueError("its entries overlap")
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"'{damaged}' has another checksum")


def _check_values(state: Any, size: int) -> None:
    """Counts instead of recursing: a list may hold one and the same list a thousand times, and so on inwards."""
    waiting, seen = [state], 0
    while waiting:
        value = waiting.pop()
        seen += 1
        if seen > size:
            raise ValueError("it unfolds to more values than it has bytes")
        if isinstance(value, Tensor):
            if value.layout != torch.strided or value.numel() * value.element_size() > size:
                raise ValueError("a tensor is larger than the file")
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, (list, tuple)):
            waiting += value
        elif not isinstance(value, (int, float, str, bytes, type(None))):
            raise ValueError(f"it holds a {type(value).__name__}")
