"""Runs that take turns in one process, so that what all of them compute next is computed for all at once.

Each run is an ordinary one, from its configuration to its summary, in a greenlet of its own. Where it is about to
act or to learn it asks the pack (`meet`) and another run goes on; once all have asked, the pack answers all of
them with one batched computation, or lets each compute for itself where they are not alike at that moment.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from greenlet import getcurrent, greenlet
from threadpoolctl import threadpool_limits

from isorl.agents.batched.stack import Stack, form_of
from isorl.agents.batched.table import Unstackable
from isorl.agents.rng import OwnStreams, Streams

LOG = logging.getLogger("isorl")

PHASES = ("act", "values", "train")
"""What runs ask for, in the order in which they do. Where they are not at the same point, those ahead wait."""

EACH = "the runs of this pack compute each for itself: %s"

_COMPUTED: dict[tuple[type, str], Callable[[Stack, list[Any]], list[Any]]] = {}


def together(agent: type, what: str) -> Callable[[Any], Any]:
    """Registers the function that does `what` for all agents of a class: (stack, arguments) -> answers, one per run."""

    def register(compute: Any) -> Any:
        _COMPUTED[agent, what] = compute
        return compute

    return register


def why_alone(agent: Any) -> str | None:
    """Why runs like this one cannot be computed as one; None where they can."""
    if (type(agent), "train") not in _COMPUTED:
        return f"{type(agent).__name__} has nothing to compute together"
    if agent.exact or agent.compile or agent.precision != "float32" or agent.device.type != "cpu":
        return "only fast runs on the CPU in float32, not compiled, share their computations"
    try:
        Stack([agent]).dissolve()
    except Unstackable as reason:
        return str(reason)
    return None


def sharing() -> int:
    """How many runs the time of this process is shared by."""
    return 1 if Pack.current is None else Pack.current.size


class Request(NamedTuple):
    """What a run is about to do."""

    agent: Any
    what: str
    argument: Any


class Pack:
    """Runs some jobs, each of which may train one agent, as if each were alone."""

    current: ClassVar[Pack | None] = None
    """The one in which the present code runs."""

    def __init__(self) -> None:
        self._stacks: list[Stack] = []
        self._members: set[int] | None = None  # ids of the agents among whom stacks were looked for
        self.size = 1
        """Runs among which the process's time is shared."""

    def run(self, jobs: Sequence[Callable[[], Any]]) -> list[Any]:
        """What each job gave back, or the exception that ended it."""
        ends: dict[int, Any] = {}
        runs = [greenlet(partial(_keep_end, ends, number, job)) for number, job in enumerate(jobs)]
        self.size = len(runs)
        before, Pack.current = Pack.current, self
        try:
            with threadpool_limits(torch.get_num_threads(), "blas"):  # numpy's takes every core otherwise
                self._take_turns(runs)
        finally:
            Pack.current = before
        return [ends[number] for number in range(len(runs))]

    def _take_turns(self, runs: list[greenlet]) -> None:
        """Lets all go on until they have ended."""
        waiting: dict[greenlet, Request] = {}
        turns: list[tuple[greenlet, Any]] = [(run, None) for run in runs]
        while turns:
            for run, answer in turns:
                request = _go_on(run, answer, first=waiting.pop(run, None) is None)
                if not run.dead:
                    waiting[run] = request
            turns = self._serve(waiting)

    def answers(self, jobs: Sequence[Callable[[], Any]]) -> list[Any]:
        """What each job gives back; what the first that fails raises, once all have ended."""
        ends = self.run(jobs)
        for end in ends:
            if isinstance(end, BaseException):
                raise end
        return ends

    @contextmanager
    def joined(self, agent: Any) -> Iterator[None]:
        """Inside, `agent` trains with the others where it can."""
        if reason := why_alone(agent):
            LOG.info("this run computes for itself: %s", reason)
            yield
            return
        agent.streams, agent.pack = OwnStreams(), self
        try:
            yield
        finally:
            self.dissolve()
            agent.streams, agent.pack = Streams(), None

    def meet(self, agent: Any, what: str, argument: Any = None) -> Any:
        """Lets the others go on until all have asked for something.

        Returns:
            The answer for `agent`; None where it computes alone.
        """
        return getcurrent().parent.switch(Request(agent, what, argument))

    def dissolve(self) -> None:
        """Called before anything else than a batched update changes what a run keeps."""
        for stack in self._stacks:
            stack.dissolve()
        self._stacks, self._members = [], None

    def _serve(self, waiting: dict[greenlet, Request]) -> list[tuple[greenlet, Any]]:
        """The runs that go on next, each with its answer."""
        kinds = {request.what for request in waiting.values()}
        if len(kinds) == 1:
            return list(zip(waiting, self._answers(list(waiting.values())), strict=True))
        behind = min(kinds, key=PHASES.index, default=None)
        return [(run, None) for run, request in waiting.items() if request.what == behind]

    def _answers(self, requests: list[Request]) -> list[Any]:
        """The answers to requests for the same thing."""
        answers: dict[int, Any] = {}
        argument = {id(request.agent): request.argument for request in requests}
        try:
            for stack in self._stacks_of([request.agent for request in requests]):
                members = [id(agent) for agent in stack.agents]
                compute = _COMPUTED[type(stack.agents[0]), requests[0].what]
                try:
                    with np.errstate(all="ignore"):  # a run that diverges finds out itself, as with torch
                        found = compute(stack, [argument[m] for m in members])
                    answers |= zip(members, found, strict=True)
                except Unstackable as reason:
                    LOG.info(EACH, reason)
                    stack.dissolve()
                    self._stacks.remove(stack)
        except BaseException as error:  # of any run's numbers, or a signal: each run ends in its own way
            return [error] * len(requests)
        return [answers.get(id(request.agent)) for request in requests]

    def _stacks_of(self, agents: list[Any]) -> list[Stack]:
        """The stacks among these runs: one for all that are of one form."""
        members = {id(agent) for agent in agents}
        if self._members == members:
            return list(self._stacks)
        self.dissolve()
        self._members = members
        groups: dict[Any, list[Any]] = {}
        for agent in agents:
            groups.setdefault(form_of(agent), []).append(agent)
        for group in groups.values():
            try:
                self._stacks.append(Stack(group))
            except Unstackable as reason:
                LOG.info(EACH, reason)
        return list(self._stacks)


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
