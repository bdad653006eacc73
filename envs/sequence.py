"""A sequence of tasks and its schedule: pure data, made once from the configuration.

A *task* is an environment with its arguments and shifts. A *visit* is one stay in a task: a sequence of three
tasks and two cycles has six visits. Lengths are agent steps summed over the environment copies.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

import gymnasium
import numpy as np

from isorl.configs import SequenceConfig, TaskConfig, UserError, imports, nearest
from isorl.envs import dm_control, metaworld, minatar
from isorl.envs.draws import Draws


@dataclass(frozen=True)
class Task:
    """Determines one task fully: no random draw is left open."""

    index: int
    name: str
    env: str
    agent_steps: int
    """Length of one visit; its limit where `episodes` or `return_threshold` may end it earlier."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    wrappers: tuple[Any, ...] = ()
    channels: str | None = None
    shifts: tuple[dict[str, Any], ...] = ()
    drift: dict[str, float] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    episodes: int | None = None
    return_threshold: float | None = None
    return_window: int = 20

    @property
    def is_atari(self) -> bool:
        """Says whether it is a game of the Arcade Learning Environment."""
        return self.env.startswith("ALE/")

    @property
    def is_stream(self) -> bool:
        """Says whether it is a classification stream (envs/stream.py), which shows the right answers."""
        plain = not self.wrappers and not self.drift  # either makes single copies, which show rewards alone
        return plain and gymnasium.spec(self.env).vector_entry_point == "isorl.envs.stream:Stream"

    @property
    def is_swept(self) -> bool:
        """Says whether it is a stream of which each round shows every sample exactly once, over all copies."""
        return self.is_stream and bool(self.kwargs.get("sweep") or self.kwargs.get("split") == "test")

    @property
    def frame_skip(self) -> int:
        """Returns the emulator frames per agent step; 1 outside Atari."""
        return int(self.kwargs.get("frameskip", 4)) if self.is_atari else 1

    @property
    def may_end_early(self) -> bool:
        """Says whether `agent_steps` is a limit rather than the length."""
        return self.episodes is not None or self.return_threshold is not None

    def for_evaluation(self) -> Task:
        """Returns the task with its evaluation arguments, and at the end of its drift."""
        return replace(self, kwargs={**self.kwargs, **self.drift, **self.evaluation}, drift={})


@dataclass(frozen=True)
class Visit:
    """Describes one stay in a task: agent steps `start` (included) to `end` (excluded), as far as known before."""

    number: int
    task: Task
    start: int
    end: int

    @property
    def agent_steps(self) -> int:
        """Returns the length of this visit."""
        return self.end - self.start


@dataclass(frozen=True)
class Sequence:
    """Holds the tasks, and the order and length in which they are visited."""

    name: str
    tasks: tuple[Task, ...]
    visits: tuple[Visit, ...]
    announce: bool = False
    switch: str = "step"

    @classmethod
    def from_config(cls, config: SequenceConfig, seed: int, n_envs: int = 1) -> Sequence:
        """Makes the schedule for `n_envs` environment copies.

        All copies step together, so the length of a visit is rounded up to a whole number of vector steps.

        Args:
            config: tasks, lengths, order and cycles.
            seed: seed of the run; used for the draws unless the sequence has its own.
            n_envs: environment copies of the learner.

        Raises:
            UserError: an unknown environment id, or a draw that cannot be made.
        """
        seed = config.seed if config.seed is not None else seed
        tasks = _make_tasks(config, seed)
        order = [tasks[index] for index in _order(config.order, len(tasks), config.cycles, seed)]
        lengths = [-(-task.agent_steps // n_envs) * n_envs for task in order]
        ends = list(accumulate(lengths))
        visits = (
            Visit(number, task, end - length, end)
            for number, (task, length, end) in enumerate(zip(order, lengths, ends, strict=True))
        )
        return cls(config.name, tuple(tasks), tuple(visits), config.announce, config.switch)

    @property
    def agent_steps(self) -> int:
        """Returns the length of the whole sequence; its limit where visits may end early."""
        return self.visits[-1].end


def _order(kind: str, count: int, cycles: int, seed: int) -> Iterator[int]:
    """Indices of the tasks in the order of the visits."""
    rng = np.random.default_rng([seed, 0x0D])  # apart from the tasks' own draws
    last = -1
    for _ in range(cycles):
        cycle = rng.permutation(count) if kind == "shuffled" else range(count)
        for index in cycle:
            if kind == "sampled":
                index = rng.choice([other for other in range(count) if other != last])
            last = int(index)
            yield last


def _make_tasks(config: SequenceConfig, seed: int) -> list[Task]:
    tasks: list[Task] = []
    for entry in config.tasks:
        entry = _with_known_id(entry)
        for copy in range(entry.count):
            draws = Draws(seed, len(tasks), copy)
            name = entry.name or entry.env.split("/")[-1]
            tasks.append(
                Task(
                    index=len(tasks),
                    name=f"{name}-{copy}" if entry.count > 1 else name,
                    env=entry.env,
                    agent_steps=_agent_steps(entry),
                    kwargs=draws.fill(entry.kwargs),
                    wrappers=tuple(entry.wrappers),
                    channels=entry.channels,
                    shifts=tuple(draws.fill(shift) for shift in entry.shifts),
                    drift=draws.fill(entry.drift),
                    evaluation=draws.fill(entry.evaluation),
                    episodes=entry.episodes,
                    return_threshold=entry.return_threshold,
                    return_window=entry.return_window,
                )
            )
    return _with_unique_names(tasks)


def _with_unique_names(tasks: list[Task]) -> list[Task]:
    """Two entries of one name would share their keys in logs and tables: number them apart, and from all others."""
    names = [task.name for task in tasks]
    taken, unique = set(names), []
    for task in tasks:
        name = task.name
        while name in taken and names.count(task.name) > 1:
            name = f"{name}-{task.index}"
        taken.add(name)
        unique.append(replace(task, name=name))
    return unique


def _agent_steps(entry: TaskConfig) -> int:
    if entry.agent_steps is not None:
        return entry.agent_steps
    assert entry.frames is not None  # the schema demands one of the two
    frame_skip = Task(0, "", entry.env, 0, entry.kwargs).frame_skip
    return -(-entry.frames // frame_skip)


MODULE_OF_ID = re.compile(r"([^\W\d][\w.]*):[^\s:/\\][^\s:]*")
"""Gymnasium's `module:Env-v0`: the module is imported, and registers the environment."""
OLD_ATARI_ID = re.compile(r"(\w+?)(NoFrameskip|Deterministic)?-v[04]")


def modules_of(config: SequenceConfig) -> list[str]:
    """Returns the modules that the sequence's environment ids import, those within arguments included."""
    texts = [text for entry in config.tasks for text in _texts([entry.env, entry.kwargs, entry.evaluation])]
    found = [match[1] for match in map(MODULE_OF_ID.fullmatch, texts) if match]
    return list(dict.fromkeys(found))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _texts(entry)


def _with_known_id(entry: TaskConfig) -> TaskConfig:
    """Returns `entry` with an id that Gymnasium has: `module:Env-v0` imported, an old Atari id as ALE/GAME-v5."""
    match = MODULE_OF_ID.fullmatch(entry.env)
    if match and match[1] not in sys.modules:
        imports.take([match[1]])
    entry = replace(entry, env=entry.env.rpartition(":")[2])
    registered(entry.env)
    old = OLD_ATARI_ID.fullmatch(entry.env)
    if old and gymnasium.spec(entry.env).entry_point == "ale_py.env:AtariEnv":
        return _of_old_atari_id(entry, game=old[1])
    return entry


def registered(env_id: str) -> str:
    """Returns `env_id`, registered with Gymnasium, by the package that has it where that is known.

    Raises:
        UserError: an id that there is not, with the nearest, or a package that is not installed.
    """
    if env_id.startswith("ALE/") or (OLD_ATARI_ID.fullmatch(env_id) and env_id not in gymnasium.registry):
        import ale_py  # registers the games

        gymnasium.register_envs(ale_py)
    if env_id.startswith(("MiniGrid-", "BabyAI-")):
        _register_minigrid()
    if env_id.startswith("MinAtar/"):
        minatar.register()
    if env_id.startswith("dm_control/"):
        dm_control.register()
    if env_id.startswith("isorl/MetaWorld-"):
        metaworld.register()
    if env_id not in gymnasium.registry:
        raise UserError(f"There is no environment '{env_id}'. {nearest(env_id, gymnasium.registry.keys())}")
    return env_id


def _of_old_atari_id(entry: TaskConfig, game: str) -> TaskConfig:
    """Returns the task by today's id, with the sticky actions (v0: 0.25, v4: none) that the old id stands for."""
    old = gymnasium.spec(entry.env).kwargs
    if not isinstance(old["frameskip"], int):
        raise UserError(
            f"'{entry.env}' repeats each action a random number of frames, which is not supported. "
            f"Use '{game}NoFrameskip-{entry.env[-2:]}' or 'ALE/{game}-v5'."
        )
    sticky = {"repeat_action_probability": old["repeat_action_probability"]}
    return replace(entry, env=f"ALE/{game}-v5", kwargs={**sticky, **entry.kwargs})


def _register_minigrid() -> None:
    try:
        import minigrid
    except ImportError:
        raise UserError("MiniGrid is not installed. Install it with: pip install -e '.[minigrid]'") from None
    gymnasium.register_envs(minigrid)
