"""Lets a run be asked to stop: by Ctrl-C, SIGTERM (Slurm, Ray, Kubernetes), SIGUSR1 or 2 (before a time limit).

Asked once, it stops between two rollouts, where the agent is whole; if that does not come within GRACE seconds,
wherever it is. Asked twice, it stops at once and saves nothing more.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from isorl.configs.errors import STOP_SIGNALS, Interrupted

GRACE = 5.0
"""Seconds until a stop. Slurm gives 30 before it kills, Kubernetes too; a checkpoint must be written by then."""


class StopRequest:
    """Hears the signals that ask a run to stop.

    Attributes:
        number: of the signal that asked, None so far.
    """

    number: int | None = None
    _listening: ClassVar[list[StopRequest]] = []
    """The requests of all runs in this process, more than one where they share it (agents/batched)."""
    _before: ClassVar[dict[int, Any]] = {}

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Hears signals inside, if this is the main thread: no other can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        if not self._listening:
            handlers = {**dict.fromkeys(STOP_SIGNALS, self._ask), signal.SIGALRM: self._give_up}
            self._before.update(
                {number: signal.signal(number, handler) for number, handler in handlers.items()}
            )
        self._listening.append(self)
        try:
            yield
        finally:
            self._listening.remove(self)
            if not self._listening:
                signal.setitimer(signal.ITIMER_REAL, 0)
                for number, handler in self._before.items():
                    signal.signal(number, handler)

    def check(self) -> None:
        """Raises Interrupted if the run was asked to stop; called between two rollouts."""
        if self.number is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)  # nothing may stop the writing of the checkpoint
            raise Interrupted(self.number)

    @classmethod
    def _ask(cls, number: int, frame: Any) -> None:
        if any(request.number is not None for request in cls._listening):
            raise Interrupted(number, at_once=True)
        for request in cls._listening:
            request.number = number
        signal.setitimer(signal.ITIMER_REAL, GRACE)

    @classmethod
    def _give_up(cls, number: int, frame: Any) -> None:
        asked = next(request.number for request in cls._listening if request.number is not None)
        raise Interrupted(asked)


@contextmanager
def interrupted_once() -> Iterator[None]:
    """Lets the first Ctrl-C be a KeyboardInterrupt inside, and ignores more, so that cleaning up is undisturbed.

    Programs that are started for it, to whom a terminal sends the signal too, ignore it as well.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def first(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
