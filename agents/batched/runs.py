"""Runs that take turns in one process, so that what all of them compute next is computed for all at once.

Each run is an ordinary one, from its configuration to its summary, in a greenlet of its own. Where it is about to
act or to learn it asks and another run goes on; once all have asked, one batched computation answers all of them, or
each computes for itself where they are not alike at that moment. A run alone is a batch of one, so how many runs there
are changes no bit of what any of them computes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from greenlet import getcurrent, greenlet
from threadpoolctl import threadpool_limits

from isorl.agents.batched.kinds import LEARNERS, form_of
from isorl.agents.batched.learner import BatchedLearner, Engine
from isorl.agents.batched.parameters import Unbatchable
from isorl.agents.batched.traced import Traces
from isorl.agents.rng import OwnRngState

LOG = logging.getLogger("isorl")

KEPT = 64
"""Forms of which the process remembers what was traced."""
TRACES: dict[Hashable, Traces] = {}
"""What was traced of this project's agents, by form and number of runs: they read nothing else than these say."""
PHASES = ("act", "values", "learn")
"""What runs ask for, in the order in which they do: names of functions of their learner."""


class BatchedRuns:
    """Works off jobs, each of which may train one agent, as if each were alone."""

    current: ClassVar[BatchedRuns | None] = None
    """Those among which the present code runs."""

    def __init__(self) -> None:
        self._learners: list[BatchedLearner] = []
        self._asked: dict[int, int | None] | None = None  # by agents' ids: for whom learners were made
        self._traces: dict[Hashable, Traces] = {}  # of others' agents
        self._doubt()
        self._scheduler: greenlet | None = None
        self.size = 1
        """Runs among which the process's time is shared."""

    def run(self, jobs: Sequence[Callable[[], Any]]) -> list[Any]:
        """Returns what each job gave back, or the exception that ended it."""
        ends: dict[int, Any] = {}
        runs = [greenlet(partial(_keep_end, ends, number, job)) for number, job in enumerate(jobs)]
        before, BatchedRuns.current = BatchedRuns.current, self
        self.size, self._scheduler = len(runs), getcurrent()
        try:
            self._take_turns(runs)
        finally:
            BatchedRuns.current, self._scheduler = before, None
        return [ends[number] for number in range(len(runs))]

    def results(self, jobs: Sequence[Callable[[], Any]]) -> list[Any]:
        """Returns what each job gave back; raises what the first that failed raised, once all have ended."""
        ends = self.run(jobs)
        for end in ends:
            if isinstance(end, BaseException):
                raise end
        return ends

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

    @contextmanager
    def member(self, agent: Any) -> Iterator[None]:
        """Lets `agent` compute inside with the others where it can, and sets its `engine`."""
        if agent.runs is self:
            yield
            return
        agent.engine = _engine(agent, self.size)
        LOG.info("updates are computed by %s: %s", agent.engine.name, agent.engine.why)
        if agent.engine.name != "batched":
            yield
            return
        agent.runs = self
        if self._scheduler is not None and not isinstance(agent.rng, OwnRngState):
            agent.rng = OwnRngState()
        try:
            with threadpool_limits(torch.get_num_threads(), "blas"):  # numpy's takes every core otherwise
                yield
        finally:
            self.unstack()
            agent.runs = None

    def request(self, agent: Any, phase: str, argument: Any = None) -> Any:
        """Lets the others go on until all have asked for something.

        Returns:
            The answer for `agent`; None where it computes alone.
        """
        request = Request(agent, phase, argument)
        if self._scheduler is not None:
            return self._scheduler.switch(request)
        answer = self._answers([request])[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def unstack(self) -> None:
        """Is called before anything else than a batched update changes what a run keeps."""
        self._dissolve()
        self._doubt()

    def _doubt(self) -> None:
        for traces in (*TRACES.values(), *self._traces.values()):
            traces.doubt()

    def _dissolve(self) -> None:
        for learner in self._learners:
            learner.unstack()
        self._learners, self._asked = [], None

    def _serve(self, waiting: dict[greenlet, Request]) -> list[tuple[greenlet, Any]]:
        """Returns the runs that go on next, each with its answer; where they are not at one point, those behind."""
        if not waiting:
            return []
        phase = min((request.phase for request in waiting.values()), key=PHASES.index)
        behind = {run: request for run, request in waiting.items() if request.phase == phase}
        return list(zip(behind, self._answers(list(behind.values())), strict=True))

    def _answers(self, requests: Sequence[Request]) -> list[Any]:
        """Answers requests for the same thing: an answer, None or an exception for each."""
        answers: dict[int, Any] = {}
        arguments, phase = {id(request.agent): request.argument for request in requests}, requests[0].phase
        try:
            for learner in self._learners_of([request.agent for request in requests], phase):
                with np.errstate(all="ignore"):  # a run that diverges finds out itself, as with torch
                    answers |= self._answer(learner, phase, arguments)
        except BaseException as error:  # of any run's numbers, or a signal: each run ends in its own way
            return [error] * len(requests)
        return [answers.get(id(request.agent)) for request in requests]

    def _answer(self, learner: BatchedLearner, phase: str, arguments: dict[int, Any]) -> dict[int, Any]:
        learner.errors = {}
        if phase == "learn":
            learner.follow()
        found = getattr(learner, phase)([arguments[id(agent)] for agent in learner.agents])
        return dict(zip(map(id, learner.agents), found, strict=True)) | learner.errors

    def _learners_of(self, agents: list[Any], phase: str) -> list[BatchedLearner]:
        """Returns the learners among these runs: one for all that are of one form, with rollouts of one length."""
        asked = {
            id(agent): _steps(agent) if phase == "learn" else None
            for agent in agents
            if agent.engine.name == "batched"
        }
        if self._asked != asked:
            self._dissolve()
            self._asked = asked
            groups: dict[Any, list[Any]] = {}
            for agent in (agent for agent in agents if id(agent) in asked):
                try:
                    groups.setdefault((form_of(agent), asked[id(agent)]), []).append(agent)
                except Unbatchable as reason:
                    LOG.info("this run computes for itself: %s", reason)
            for (form, _), group in groups.items():
                self._learners.append(
                    LEARNERS[group[0].batched_as](group, self._traces_of(group[0], (form, len(group))))
                )
        return self._learners

    def _traces_of(self, agent: Any, form: Hashable) -> Traces:
        """Returns what was traced of agents of this form, in earlier runs of the process too where they are ours."""
        if type(agent).__module__.partition(".")[0] != __name__.partition(".")[0]:
            return self._traces.setdefault(form, Traces())
        if form not in TRACES and len(TRACES) >= KEPT:
            del TRACES[next(iter(TRACES))]
        return TRACES.setdefault(form, Traces())


class Request(NamedTuple):
    """What a run is about to do: a phase of its learner's, with an argument."""

    agent: Any
    phase: str
    argument: Any


def unbatchable_reason(agent: Any) -> str | None:
    """Returns why runs like this one cannot be computed as one; None where they can."""
    if not getattr(agent, "batched_as", None):
        return f"{type(agent).__name__} computes each run for itself"
    if agent.exact:
        return "exact=true computes what its modules compute, in torch"
    if agent.device.type != "cpu" or agent.precision != "float32":
        return f"numpy computes float32 here on the CPU, not in {agent.precision} on {agent.device.type}"
    if agent.compile:
        return "its update is compiled"
    try:
        form_of(agent)
    except Unbatchable as reason:
        return str(reason)
    return None


def batching_key(agent: Any) -> Hashable:
    """Returns what is equal for agents that are computed as one; None where this one is computed alone."""
    return None if unbatchable_reason(agent) else form_of(agent)


def _steps(agent: Any) -> int | None:
    """Returns the length of a rollout that is shorter than planned: the task has changed."""
    buffer = getattr(agent, "rollout_buffer", None)
    return None if buffer is None or buffer.pos == buffer.buffer_size else buffer.pos


def _engine(agent: Any, runs: int) -> Engine:
    reason = unbatchable_reason(agent)
    if reason is None:
        return Engine(
            "batched", runs, f"small networks, {runs} {'run' if runs == 1 else 'runs'} in this process"
        )
    return Engine("compiled" if getattr(agent, "compile", False) else "torch", 1, reason)


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
