"""The one exception for a user's mistake, and the nearest valid name for a mistyped one."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""By which a run is asked to save and stop: Ctrl-C, a scheduler's end, and its word before a time limit."""


class UserError(ValueError):
    """What was given, why it cannot work, and what to do instead: shown without a traceback, exit code 2."""


class RunStopped(Exception):
    """A run had to stop for a reason that is no error of this project: shown without a traceback.

    Attributes:
        exit_code: of the process.
        saves: whether what the run holds in memory is still written.
        saved_at: agent step from which `resume` goes on, if any.
    """

    exit_code = 1
    saves = True
    saved_at: int | None = None


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop by one of STOP_SIGNALS.

    No Exception: it may come in the middle of an environment's step, and must not pass for a failure of that.

    Attributes:
        exit_code, saves, saved_at: as of RunStopped.
    """

    saved_at: int | None = None

    def __init__(self, number: int, at_once: bool = False) -> None:
        super().__init__(f"Stopped by {signal.Signals(number).name}.")
        self.exit_code = 128 + number
        self.saves = not at_once


def nearest(given: object, known: Iterable[str]) -> str:
    """A sentence that names the closest entry of `known` to `given`, or lists them all."""
    names = sorted(known)
    match = difflib.get_close_matches(str(given), names, n=1, cutoff=0.6)
    if match:
        return f"Did you mean '{match[0]}'?"
    return f"Known: {', '.join(names)}." if names else "There are none."
