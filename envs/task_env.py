"""One task, running in n copies: a vector environment with its shifts, clipped rewards and raw episode returns.

Handed the common spaces of a sequence, it speaks them: observations come out as the agent sees them, and actions
go in as the agent gives them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces

from isorl.configs import UserError
from isorl.envs.failures import EnvironmentFailed, Failures
from isorl.envs.make import make_vector_env
from isorl.envs.sequence import Task
from isorl.envs.shifts import make_shift
from isorl.envs.spaces import CommonSpaces, Transform, image_of


@dataclass(frozen=True)
class Episode:
    """Holds a finished episode's sum of raw rewards, its length in agent steps, and its success where it has one."""

    copy: int
    raw_return: float
    length: int
    success: bool | None = None


@dataclass
class Step:
    """Holds what one vector step gave. Rewards are as trained on; raw returns stand in `episodes`."""

    observations: np.ndarray  # (n_envs, ...), after autoreset
    rewards: np.ndarray  # (n_envs,) float32, the sign of the raw ones in Atari
    raw_rewards: np.ndarray  # (n_envs,)
    terminated: np.ndarray  # (n_envs,) bool
    truncated: np.ndarray  # (n_envs,) bool
    done: np.ndarray  # (n_envs,) bool: one of the two
    final: np.ndarray  # (n_envs, ...): before autoreset; equals `observations` where nothing ended
    episodes: list[Episode] = field(default_factory=list)
    labels: np.ndarray | None = None  # (n_envs,) right answers to the inputs just answered; in streams only


class TaskEnv:
    """Plays `n_envs` copies of one task.

    Args:
        task: which environment, arguments, wrappers and shifts.
        n_envs: number of copies.
        common: the spaces to speak; the task's own when not given.
        render: build environments that can draw frames.
        failures: what is done about those of the environment; None: they end the run.

    Raises:
        UserError: wrong arguments, or an extra that is not installed.
    """

    def __init__(
        self,
        task: Task,
        n_envs: int,
        common: CommonSpaces | None = None,
        render: bool = False,
        failures: Failures | None = None,
    ) -> None:
        self.task = task
        self.n_envs = n_envs
        self.failures = failures or Failures()
        self.env = make_vector_env(task, n_envs, render, self.failures)
        self.observation_space: Any = self.env.single_observation_space
        self.action_space: spaces.Space = self.env.single_action_space
        self._see: list[Transform] = []
        self._act: list[Transform] = []
        self._shift()
        if common is not None:
            self._see += common.from_task(self.observation_space, task.index)
            self._act = common.to_task(self.action_space) + self._act
            self.observation_space, self.action_space = common.observation, common.action
        self.allowed = self._allowed()
        """(actions,) bool: which actions the task allows, where it says so."""
        self._clip_rewards = task.is_atari
        self._returns = np.zeros(n_envs)
        self._lengths = np.zeros(n_envs, dtype=np.int64)

    def _shift(self) -> None:
        channels = self.task.channels
        if (
            channels is None and len(self.observation_space.shape or ()) == 3
        ):  # wrappers may have flattened it
            channels = self.env.metadata.get("channels")
        self.observation_space, turned = image_of(self.observation_space, channels, self.task.name)
        self._see += turned
        self.shifts = []
        for options in self.task.shifts:
            shift = make_shift(self.observation_space, self.action_space, options)
            if shift.changes_observations:
                self._see.append(shift.observations)
            elif hasattr(self.env, "allowed"):
                raise UserError(f"Task '{self.task.name}': a stream renames classes by 'labels: shuffled'.")
            else:
                self._act.insert(0, shift.actions)
            self.observation_space, self.action_space = shift.observation_space, shift.action_space
            self.shifts.append(shift)

    def _allowed(self) -> np.ndarray | None:
        allowed: np.ndarray | None = getattr(self.env, "allowed", None)
        if allowed is None:
            return None
        assert isinstance(self.action_space, spaces.Discrete)  # streams have no others
        return np.pad(allowed, (0, int(self.action_space.n) - len(allowed)))

    def reset(self, seed: int) -> np.ndarray:
        """Starts an episode in every copy; copy i is seeded with seed + i, as stable-baselines3 does.

        Raises:
            EnvironmentFailed: the environment raised.
        """
        with self._named():
            observations, _ = self.env.reset(seed=seed)
        self._returns[:] = 0
        self._lengths[:] = 0
        return self._seen(observations)

    def step(self, actions: np.ndarray) -> Step:
        """Takes one action per copy.

        Raises:
            EnvironmentFailed: the environment raised, or gave numbers or shapes that cannot be learned from.
        """
        for transform in self._act:
            actions = transform(actions)
        try:
            observations, rewards, terminated, truncated, infos = self.env.step(actions)
            rewards = self.failures.finite(rewards, "a reward")
            observations = self.failures.finite(observations, "an observation")
        except Exception as error:
            raise self._named_after_the_task(error) from error
        self._returns += rewards
        self._lengths += 1
        done = terminated | truncated
        observations = self._seen(observations)
        step = Step(
            observations=observations,
            rewards=np.sign(rewards).astype(np.float32) if self._clip_rewards else rewards.astype(np.float32),
            raw_rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            done=done,
            final=observations,
            labels=infos.get("labels"),
        )
        if np.count_nonzero(done):
            step.final = self._final(observations, done, infos)
            step.episodes = self._finished(done, infos)
        return step

    def render(self) -> list[np.ndarray]:
        """Returns an RGB frame of each copy; needs `render=True`."""
        return list(self.env.render())

    def close(self) -> None:
        """Frees the environments."""
        self.env.close()

    def state_dict(self) -> dict[str, Any]:
        """Returns the state in the middle of episodes: plain values and arrays."""
        with self._named():
            env = self.env.state_dict()
        return {
            "env": env,
            "shifts": [shift.state_dict() for shift in self.shifts],
            "returns": self._returns.copy(),
            "lengths": self._lengths.copy(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was called."""
        with self._named():
            self.env.load_state_dict(state["env"])
        for shift, saved in zip(self.shifts, state["shifts"], strict=True):
            shift.load_state_dict(saved)
        self._returns[:], self._lengths[:] = state["returns"], state["lengths"]

    def _seen(self, observations: np.ndarray) -> np.ndarray:
        for transform in self._see:
            observations = transform(observations)
        return observations

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Inside, an error is one of this task."""
        try:
            yield
        except Exception as error:
            raise self._named_after_the_task(error) from error

    def _named_after_the_task(self, error: Exception) -> EnvironmentFailed:
        return EnvironmentFailed(f"Task '{self.task.name}' ({self.task.env}): {error}")

    def _final(self, observations: np.ndarray, done: np.ndarray, infos: dict[str, Any]) -> np.ndarray:
        final = observations.copy()
        ended = np.flatnonzero(done)
        last = np.stack([infos["final_obs"][i] for i in ended])
        with self._named():
            last = self.failures.finite(last, "a last observation")
        final[ended] = self._seen(last)
        return final

    def _finished(self, done: np.ndarray, infos: dict[str, Any]) -> list[Episode]:
        """Episodes that really ended. A lost life in Atari terminates for the learner, but the game goes on."""
        over = done & ~infos["life_lost"] if "life_lost" in infos else done
        whole = over & ~infos["failed"] if "failed" in infos else over
        success = infos.get("is_success", [None] * self.n_envs)
        episodes = [
            Episode(int(i), float(self._returns[i]), int(self._lengths[i]), success[i])
            for i in np.flatnonzero(whole)
        ]
        self._returns[over] = 0
        self._lengths[over] = 0
        return episodes


def spaces_of(task: Task, failures: Failures | None = None) -> tuple[spaces.Box, spaces.Space]:
    """Returns (observation space, action space) of a task, shifts included."""
    env = TaskEnv(task, n_envs=1, failures=failures)
    try:
        return env.observation_space, env.action_space
    finally:
        env.close()
