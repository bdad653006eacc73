"""Prints to the terminal: names are data and never markup, messages fit its width, a closed pipe is no error."""

from __future__ import annotations

import logging
import os
import sys
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 80


def console(stderr: bool = False, file: TextIO | None = None) -> Console:
    """Returns a console that prints every text as it is: `[/x]` and `:x:` in a name are part of the name."""
    from rich.console import Console

    return Console(stderr=stderr, file=file, markup=False, emoji=False, highlight=False)


def say(message: str, style: str | None = None) -> None:
    """Prints `message` to standard error, wrapped."""
    console(stderr=True).print(wrapped(message), style=style, soft_wrap=True)


def show_warnings_as_messages() -> None:
    """Lets Python's warnings from now on be messages like others, instead of a file's name and a line of its code."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if (log := logging.getLogger("isorl")).handlers:  # a run has begun
            log.warning(message)
        say(f"Warning: {message}", style="yellow")

    warnings.showwarning = show


def wrapped(message: str) -> str:
    """Returns `message` in lines of at most WIDTH characters, broken at blanks alone.

    Lines that begin with blanks are commands, which stay whole to be copied.
    """
    filler = textwrap.TextWrapper(WIDTH, break_long_words=False, break_on_hyphens=False)
    return "\n".join(line if line.startswith(" ") else filler.fill(line) for line in message.splitlines())


def explain(error: BaseException) -> str:
    """Returns the first line of what `error` says; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def duration(seconds: float) -> str:
    """Returns a time in the largest unit of which there are two: 90 seconds, 2.5 hours."""
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.0f} seconds"


@contextmanager
def closed_pipe_is_no_error() -> Iterator[None]:
    """Lets a reader such as `head` stop reading what is printed inside."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
