"""Writes and reads the file of a checkpoint: torch's zip, opened without running code from it.

`torch.load(weights_only=True)` builds tensors and plain values. The checksums of the entries, which torch does not look
at, are checked before.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import torch

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
