"""A process that keeps one environment and answers questions about it; how it hangs or dies is told in a sentence.

The process comes from multiprocessing's fork server, which is small and has no threads: forking a process that trains
could hang, starting an interpreter for every copy and switch would take seconds. It ends with the run, however that
ends: it sees the pipe closed, and if it hangs, its own alarm kills it.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import multiprocessing
import queue
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from typing import Any

from gymnasium.vector.utils import CloudpickleWrapper

from isorl.configs.errors import STOP_SIGNALS, UserError

LOG = logging.getLogger("isorl")
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["__main__", "isorl.envs.make"])
SPARE = 5.0
"""Seconds after which a process that hangs is killed by its own alarm: only where the run is no longer there to."""
CLOSING = 5.0
"""Seconds in which an environment must be closed."""


class Failed(RuntimeError):
    """Says what the environment, or its process, did wrong."""


class Worker:
    """Keeps one process with one environment.

    Args:
        make: makes the environment, in the process; whatever cloudpickle can carry.
        name: of the process.
    """

    def __init__(self, make: Callable[[], Any], name: str) -> None:
        self._pipe, other = SERVER.Pipe()
        self._process = SERVER.Process(
            target=_serve, args=(CloudpickleWrapper(make), other), daemon=True, name=name
        )
        with other, _unasked():
            self._process.start()
        self._asked, self._until, self._seconds = 0, 0.0, 0.0
        self._left = False
        # the interpreter asks processes politely when it exits, and would wait for one that hangs
        self._end = Finalize(self, _end, (self._process, self._pipe), exitpriority=10)

    def ask(self, seconds: float, what: str, *arguments: Any) -> None:
        """Lets the environment do `what`, one of its methods, within `seconds`; `answer` has the result."""
        self._asked, self._seconds, self._until = self._asked + 1, seconds, time.monotonic() + seconds
        with contextlib.suppress(OSError):  # it is dead: `answer` says how it died
            self._pipe.send((self._asked, seconds, what, arguments))

    def answer(self) -> Any:
        """Returns what the environment gave.

        Raises:
            Failed: the environment raised, took too long, or its process died.
            UserError: the environment cannot be made as it is wanted.
        """
        while True:
            try:
                if not self._pipe.poll(self._remaining()):
                    self.kill()
                    raise Failed(f"no answer within {self._seconds:g} s")
                asked, records, error, value = self._pipe.recv()
            except (EOFError, OSError):
                raise Failed(self._death()) from None
            for record in records:
                LOG.handle(record)
            if asked == self._asked:  # else an answer that nobody waited for: Ctrl-C came first
                break
        if error is not None:
            raise error
        return value

    def _remaining(self) -> float:
        return max(self._until - time.monotonic(), 0)

    def kill(self) -> None:
        """Ends the process at once; later questions are answered by Failed."""
        self._process.kill()
        self._process.join()

    def leave(self) -> None:
        """Asks the environment to close itself, which `close` waits for."""
        if not self._left:
            self._left, self._until = True, time.monotonic() + CLOSING
            with contextlib.suppress(OSError):
                self._pipe.send(None)

    def close(self) -> None:
        """Frees everything; called again, does nothing."""
        if self._end.still_active():
            self.leave()
            self._process.join(self._remaining())
            self._end()

    def _death(self) -> str:
        self._process.join(CLOSING)
        code = self._process.exitcode
        if code is None:
            return "its process closed its connection"
        if code == -signal.SIGALRM:
            return f"no answer within {self._seconds:g} s"
        if code < 0:
            return f"its process was killed by {signal.Signals(-code).name}"
        return f"its process ended with exit code {code}"


def _end(process: Any, pipe: Connection) -> None:
    """Kills the process, if it still lives, and gives its handles back."""
    pipe.close()
    process.kill()
    process.join()
    process.close()


@contextmanager
def _unasked() -> Iterator[None]:
    """Inside, Ctrl-C and the like wait; a process that is started here does not hear them before it wants to."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(make: Callable[[], Any], pipe: Connection) -> None:
    """The life of the process: answers until the pipe is closed."""
    # terminals and Slurm send these to every process, but it is the run that says when its environments end
    for number in STOP_SIGNALS:
        signal.signal(
            number, lambda number, frame: None
        )  # unlike SIG_IGN, not inherited by programs it starts
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # kills, even while C code hangs
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [*STOP_SIGNALS, signal.SIGALRM])
    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    LOG.addHandler(logging.handlers.QueueHandler(records))
    env: Any = None
    with contextlib.suppress(EOFError, OSError):  # the run is gone
        while (question := pipe.recv()) is not None:
            asked, seconds, what, arguments = question
            value: Any = None
            error: Exception | None = None
            signal.setitimer(signal.ITIMER_REAL, seconds + SPARE)
            try:
                if what == "make":
                    env = make()
                else:
                    value = getattr(env, what)(*arguments)
            except UserError as mistake:
                error = UserError(str(mistake))
            except Exception as raised:
                reason = (
                    raised.__cause__ or raised
                )  # a vector environment says of its only copy that it was copy 0
                error = Failed(f"{type(reason).__name__}: {reason}")
            signal.setitimer(signal.ITIMER_REAL, 0)
            said = [records.get() for _ in range(records.qsize())]
            pipe.send((asked, said, error, value))
    signal.setitimer(signal.ITIMER_REAL, CLOSING)
    if env is not None:
        env.close()
