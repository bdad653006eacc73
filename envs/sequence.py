"""A sequence of tasks and its schedule: pure data, made once from the configuration.

A *task* is an environment with its arguments and shifts. A *visit* is one stay in a task: a sequence of three
tasks and two cycles has six visits. Lengths are agent steps summed over the environment copies.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import gymnasium
import numpy as np

from configs import SequenceConfig, TaskConfig, UserError, nearest

TASK_SEED = "task_seed"
"""Stands in a task's arguments for an integer that is drawn anew for every task."""


@dataclass(frozen=True)
class Task:
    """One task, fully determined: no random draw is left open."""

    index: int
    name: str
    env: str
    agent_steps: int
    """Length of one visit."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    shifts: tuple[dict[str, Any], ...] = ()

    @property
    def is_atari(self) -> bool:
        """True for games of the Arcade Learning Environment."""
        return self.env.startswith("ALE/")

    @property
    def frame_skip(self) -> int:
        """Emulator frames per agent step; 1 outside Atari."""
        return int(self.kwargs.get("frameskip", 4)) if self.is_atari else 1


@dataclass(frozen=True)
class Visit:
    """One stay in a task: agent steps `start` (included) to `end` (excluded)."""

    number: int
    task: Task
    start: int
    end: int

    @property
    def agent_steps(self) -> int:
        """Length of this visit."""
        return self.end - self.start


@dataclass(frozen=True)
class Sequence:
    """The tasks, and the order and length in which they are visited."""

    name: str
    tasks: tuple[Task, ...]
    visits: tuple[Visit, ...]

    @classmethod
    def from_config(cls, config: SequenceConfig, seed: int, n_envs: int = 1) -> Sequence:
        """The schedule for `n_envs` environment copies.

        All copies step together, so the length of a visit is rounded up to a whole number of vector steps.

        Args:
            config: tasks, lengths and cycles.
            seed: seed of the run; used for the tasks' draws unless the sequence has its own.
            n_envs: environment copies of the learner.

        Raises:
            UserError: an unknown environment id.
        """
        tasks = _make_tasks(config, config.seed if config.seed is not None else seed)
        order = [task for _ in range(config.cycles) for task in tasks]
        lengths = [-(-task.agent_steps // n_envs) * n_envs for task in order]
        ends = list(accumulate(lengths))
        visits = (
            Visit(number, task, end - length, end)
            for number, (task, length, end) in enumerate(zip(order, lengths, ends, strict=True))
        )
        return cls(config.name, tuple(tasks), tuple(visits))

    @property
    def agent_steps(self) -> int:
        """Length of the whole sequence."""
        return self.visits[-1].end

    def visit_at(self, agent_step: int) -> Visit:
        """The visit to which `agent_step` belongs; the last one for steps past the end."""
        ends = [visit.end for visit in self.visits]
        return self.visits[min(bisect.bisect_right(ends, agent_step), len(self.visits) - 1)]


def _make_tasks(config: SequenceConfig, seed: int) -> list[Task]:
    tasks: list[Task] = []
    for entry in config.tasks:
        _check_env_id(entry.env)
        for copy in range(entry.count):
            index = len(tasks)
            draw = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
            name = entry.name or entry.env.split("/")[-1]
            tasks.append(
                Task(
                    index=index,
                    name=f"{name}-{copy}" if entry.count > 1 else name,
                    env=entry.env,
                    kwargs=_with_draw(entry.kwargs, draw),
                    shifts=tuple(_with_draw(shift, draw) for shift in entry.shifts),
                    agent_steps=_agent_steps(entry),
                )
            )
    return _with_unique_names(tasks)


def _with_draw(arguments: dict[str, Any], draw: int) -> dict[str, Any]:
    return {key: draw if value == TASK_SEED else value for key, value in arguments.items()}


def _with_unique_names(tasks: list[Task]) -> list[Task]:
    """Two entries of one name would share their TensorBoard keys: number them apart."""
    names = [task.name for task in tasks]
    for position, task in enumerate(tasks):
        if names.count(task.name) > 1:
            tasks[position] = Task(**{**task.__dict__, "name": f"{task.name}-{position}"})
    return tasks


def _agent_steps(entry: TaskConfig) -> int:
    if entry.agent_steps is not None:
        return entry.agent_steps
    assert entry.frames is not None  # the schema demands one of the two
    frame_skip = Task(0, "", entry.env, 0, entry.kwargs).frame_skip
    return -(-entry.frames // frame_skip)


def _check_env_id(env_id: str) -> None:
    if env_id.startswith("ALE/"):
        import ale_py  # registers the games

        gymnasium.register_envs(ale_py)
    if env_id in gymnasium.registry:
        return
    raise UserError(f"There is no environment '{env_id}'. {nearest(env_id, gymnasium.registry.keys())}")
