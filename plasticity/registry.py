"""A name for every pluggable part: one file and one registration add an activation, a metric or a method."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")
LISTED = 5
"""Names that a message lists at most."""


class UnknownNameError(KeyError, ValueError):
    """Says that a name is not registered, and suggests the nearest one."""

    def __str__(self) -> str:  # KeyError would print the message in quotes
        return str(self.args[0])


def unknown_name(kind: str, name: str, known: list[str]) -> UnknownNameError:
    """Returns the error for `name`, which suggests the nearest of `known`."""
    near = difflib.get_close_matches(str(name), known, n=1)
    if near or len(known) <= LISTED:
        hint = f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(known)}"
        return UnknownNameError(f"unknown {kind} {name!r}.{hint}")
    some = difflib.get_close_matches(str(name), known, n=LISTED, cutoff=0.0)
    return UnknownNameError(f"unknown {kind} {name!r}. Nearest of {len(known)}: {', '.join(some)}")


def import_modules(package: str, path: Iterable[str]) -> None:
    """Imports every module of a package, so that each registers what it holds: a new file is found by itself."""
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")


class Registry(Mapping[str, T], Generic[T]):
    """Maps names to things of one kind, in the order of their registration."""

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Returns a decorator, or a call on any object, that files it under `name`."""
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered twice; choose another name")

        def add(entry: T) -> T:
            self._entries[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        try:
            return self._entries[name]
        except KeyError:
            raise unknown_name(self.kind, name, list(self._entries)) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
