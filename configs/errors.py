"""The one exception for a user's mistake, and the nearest valid name for a mistyped one."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""By which a run is asked to save and stop: Ctrl-C, a scheduler's end, and its word before a time limit."""


class UserError(ValueError):
    """Says what was given, why it cannot work, and what to do instead: shown without a traceback, exit code 2."""


class RunStopped(Exception):
    """Says that a run had to stop for a reason that is no error of this project: shown without a traceback.

    Attributes:
        exit_code: of the process.
        saves: whether what the run holds in memory is still written.
        saved_at: agent step from which `resume` goes on, if any.
    """

    exit_code = 1
    saves = True
    saved_at: int | None = None


class Interrupted(KeyboardInterrupt):
    """Says that the run was asked to stop by one of STOP_SIGNALS.

    No Exception: it may come in the middle of an environment's step, and must not pass for a failure of that.

    Attributes:
        exit_code, saves, saved_at: as of RunStopped.
    """

    saved_at: int | None = None

    def __init__(self, number: int, at_once: bool = False) -> None:
        super().__init__(f"Stopped by {signal.Signals(number).name}.")
        self.exit_code = 128 + number
        self.saves = not at_once


LISTED = 5
"""Names that a message lists at most."""


def nearest(given: object, known: Iterable[str], listing: str = "") -> str:
    """Returns a sentence that names the entry of `known` closest to `given`, or lists the five nearest.

    Args:
        given: what the user wrote. Initials count as close: `lr` means `learning_rate`.
        known: all valid names.
        listing: the command that lists them all, told where five are not all.
    """
    names = sorted(known)
    if (match := closest(given, names)) is not None:
        return f"Did you mean '{match}'?"
    if len(names) <= LISTED:
        return f"Known: {', '.join(names)}." if names else "There are none."
    some = difflib.get_close_matches(str(given), names, n=LISTED, cutoff=0.0)
    return f"Nearest of {len(names)}: {', '.join(some)}.{f' All: {listing}' if listing else ''}"


def closest(given: object, names: Iterable[str]) -> str | None:
    """Returns the one of `names` that was most likely meant; None where none is like `given`."""
    names = sorted(names)
    spelt = [name for name in names if "_" in name and given == "".join(word[:1] for word in name.split("_"))]
    return next(iter([*spelt, *difflib.get_close_matches(str(given), names, n=1, cutoff=0.6)]), None)
