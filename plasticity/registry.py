"""A name for every pluggable part: one file and one registration add an activation, a metric or a method."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")
LISTED = 5
"""Names that a message lists at most."""


class UnknownNameError(KeyError, ValueError):
    """A name that is not registered; the message suggests the nearest one."""

    def __str__(self) -> str:  # KeyError would print the message in quotes
        return str(self.args[0])


def unknown_name(kind: str, name: str, known: list[str]) -> UnknownNameError:
    """The error for `name`, suggesting the nearest of `known`."""
    near = difflib.get_close_matches(str(name), known, n=1)
    if near or len(known) <= LISTED:
        hint = f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(known)}"
        return UnknownNameError(f"unknown {kind} {name!r}.{hint}")
    some = difflib.get_close_matches(str(name), known, n=LISTED, cutoff=0.0)
    return UnknownNameError(f"unknown {kind} {name!r}. Nearest of {len(known)}: {', '.join(some)}")


class Registry(Mapping[str, T], Generic[T]):
    """Names to things of one kind, in the order of their registration."""

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator, or a call on any object, that files it under `name`."""
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
