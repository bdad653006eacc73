"""Writes files so that a crash leaves the old content or the new, never half of one; reads JSON that may be damaged."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces the file `path`: a temporary file, flushed to the disk, takes its name.

    Raises:
        OSError: the disk is full or read-only; what was at `path` is still there.
    """
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        sync(file)
    rename(temporary, path)


def write_json(path: Path, content: Any) -> None:
    """Replaces the file `path` by `content` as JSON.

    Raises:
        OSError: as `write_atomically`.
    """
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """Returns the object that the file `path` holds; None where it is missing or damaged, as a torn copy is."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def sync_path(path: Path) -> None:
    """Flushes a file that somebody else writes."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync(file: Any) -> None:
    """Flushes an open file to the disk."""
    file.flush()
    os.fsync(file.fileno())


def rename(old: Path, new: Path) -> None:
    """Gives `old` the name `new`; once this returns, not even a power failure undoes it."""
    os.replace(old, new)
    sync_folder(new.parent)


def sync_folder(folder: Path) -> None:
    """Flushes the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
