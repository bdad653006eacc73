"""Runs that take turns in one process, so that what all of them compute next is computed for all at once.

Each run is an ordinary one, from its configuration to its summary, in a greenlet of its own. Where it is about to
act or to learn it asks the pack (`meet`) and another run goes on; once all have asked, the pack answers all of
them with one batched computation, or lets each compute for itself where they are not alike at that moment.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from greenlet import getcurrent, greenlet

from agents.pack.stack import Stack, Unstackable
from agents.streams import OwnStreams, Streams

LOG = logging.getLogger("isorl")

PHASES = ("act", "values", "train")
"""What runs ask for, in the order in which they do. Where they are not at the same point, those ahead wait."""

_COMPUTED: dict[tuple[type, str], Callable[[Stack, list[Any]], list[Any]]] = {}


def together(agent: type, what: str) -> Callable[[Any], Any]:
    """Registers the function that does `what` for all agents of a class: (stack, arguments) -> answers, one per run."""

    def register(compute: Any) -> Any:
        _COMPUTED[agent, what] = compute
        return compute

    return register


@dataclass(frozen=True)
class Request:
    """What a run is about to do."""

    agent: Any
    what: str
    argument: Any


class Pack:
    """Runs some jobs, each of which may train one agent, as if each were alone."""

    current: ClassVar[Pack | None] = None
    """The one in which the present code runs."""

    def __init__(self) -> None:
        self._stack: Stack | None = None
        self._why_not: tuple[list[Any], str] | None = None  # runs that cannot be stacked, and the reason

    def run(self, jobs: Sequence[Callable[[], Any]]) -> list[Any]:
        """What each job gave back, or the exception that ended it."""
        ends: dict[int, Any] = {}
        runs = [greenlet(partial(_keep_end, ends, number, job)) for number, job in enumerate(jobs)]
        waiting: dict[greenlet, Request] = {}
        before, Pack.current = Pack.current, self
        try:
            turns = [(run, None) for run in runs]
            while turns:
                for run, answer in turns:
                    request = _go_on(run, answer, first=waiting.pop(run, None) is None)
                    if not run.dead:
                        waiting[run] = request
                turns = self._serve(waiting)
        finally:
            Pack.current = before
        return [ends[number] for number in range(len(runs))]

    @contextmanager
    def joined(self, agent: Any) -> Iterator[None]:
        """Inside, `agent` trains with the others."""
        agent.streams, agent.pack = OwnStreams(), self
        try:
            yield
        finally:
            self.dissolve()
            agent.streams, agent.pack = Streams(), None

    def meet(self, agent: Any, what: str, argument: Any = None) -> Any:
        """Lets the others go on until all have asked for something; the answer for `agent`, or None: it computes alone."""
        return getcurrent().parent.switch(Request(agent, what, argument))

    def dissolve(self) -> None:
        """Called before anything else than a batched update changes what a run keeps."""
        if self._stack is not None:
            self._stack.dissolve()
        self._stack = self._why_not = None

    def _serve(self, waiting: dict[greenlet, Request]) -> list[tuple[greenlet, Any]]:
        """The runs that go on next, each with its answer."""
        kinds = {request.what for request in waiting.values()}
        if len(kinds) == 1:
            return list(zip(waiting, self._answers(list(waiting.values())), strict=True))
        behind = min(kinds, key=PHASES.index, default=None)
        return [(run, None) for run, request in waiting.items() if request.what == behind]

    def _answers(self, requests: list[Request]) -> list[Any]:
        agents = [request.agent for request in requests]
        try:
            stack = self._stack_of(agents)
            compute = _COMPUTED[type(agents[0]), requests[0].what]
            return compute(stack, [request.argument for request in requests])
        except Unstackable as reason:
            self._remember(agents, str(reason))
            return [None] * len(requests)
        except BaseException as error:  # of any run's numbers, or a signal: each run ends in its own way
            return [error] * len(requests)

    def _stack_of(self, agents: list[Any]) -> Stack:
        if self._stack is not None and self._stack.agents == agents:
            return self._stack
        if self._why_not is not None and self._why_not[0] == agents:
            raise Unstackable(self._why_not[1])
        if len(agents) == 1:
            raise Unstackable("it is the only run left")
        self.dissolve()
        self._stack = Stack(agents)
        return self._stack

    def _remember(self, agents: list[Any], reason: str) -> None:
        if self._why_not is None or self._why_not[0] != agents:
            LOG.info("these runs compute each for itself: %s", reason)
        self.dissolve()
        self._why_not = agents, reason


def _keep_end(ends: dict[int, Any], number: int, job: Callable[[], Any]) -> None:
    try:
        ends[number] = job()
    except BaseException as error:  # the other runs go on
        ends[number] = error


def _go_on(run: greenlet, answer: Any, first: bool) -> Any:
    """Lets `run` go on until it asks for something or ends."""
    if first:
        return run.switch()
    return run.throw(answer) if isinstance(answer, BaseException) else run.switch(answer)
