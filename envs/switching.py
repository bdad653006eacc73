"""The environment an agent trains in: one stable-baselines3 VecEnv that plays a whole sequence of tasks.

A switch is a *truncation* of every copy: `dones` are true, `TimeLimit.truncated` is set and the last observation of
the old task stands in `terminal_observation`, so learners bootstrap the value from the old task and nothing (GAE,
n-step target, replayed transition) reaches across. The returned observation is the first of the new task.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvStepReturn

from isorl.configs import UserError
from isorl.envs.failures import EnvironmentFailed, Failures
from isorl.envs.sequence import Sequence, Task, Visit
from isorl.envs.spaces import CommonSpaces, unify
from isorl.envs.task_env import Step, TaskEnv, spaces_of


def common_spaces(sequence: Sequence, failures: Failures | None = None) -> CommonSpaces:
    """Returns the spaces that all tasks of `sequence` share; making each task once finds wrong arguments early."""
    names = [task.name for task in sequence.tasks]
    pairs = [spaces_of(task, failures) for task in sequence.tasks]
    for task, trained in zip(sequence.tasks, pairs, strict=True):
        evaluated = task.for_evaluation()
        if evaluated != task and (spaces := spaces_of(evaluated, failures)) != trained:
            raise UserError(
                f"Task '{task.name}' has other spaces when it is evaluated: {spaces}, not {trained}."
            )
    return unify(names, pairs, sequence.announce)


class SwitchingVecEnv(VecEnv):
    """Plays the visits of a sequence one after the other, and stays in the last task when it is over.

    `infos[i]["episode"]` holds the raw return "r", the length "l" in agent steps, "task" and "visit" of an episode
    that ended by itself; an episode that a switch cut short is no result and is not reported. `infos[i]["is_success"]`
    says whether that episode was one, where the environment says so.

    Args:
        sequence: tasks and schedule, made for `n_envs` copies.
        n_envs: environment copies.
        seed: copy i of visit 0 is seeded with seed + i (as stable-baselines3 does); later visits draw from it.
        common: the common spaces, where they are known already.
        failures: what is done about those of an environment; None: they end the run.

    Raises:
        UserError: tasks that cannot be made or do not fit together.
    """

    def __init__(
        self,
        sequence: Sequence,
        n_envs: int,
        seed: int,
        common: CommonSpaces | None = None,
        failures: Failures | None = None,
    ) -> None:
        self.sequence = sequence
        self.failures = failures or Failures()
        self.common = common or common_spaces(sequence, self.failures)
        self._seed = seed
        self.visit: Visit = sequence.visits[0]
        """The present visit; where it started is exact, where it ends is the plan."""
        self.agent_steps = 0
        self.finished = False
        """Whether the last visit is over."""
        self.labels: np.ndarray | None = None
        """(n_envs,) right answers to what the last step answered; in classification streams only."""
        self._saved = 0  # agent steps by which visits ended before their limit
        self._recent: deque[float] = deque(maxlen=self.visit.task.return_window)
        self._episodes = 0
        self._env = TaskEnv(self.visit.task, n_envs, self.common, failures=self.failures)
        self._actions = np.zeros(n_envs, dtype=np.int64)
        self.render_mode = None
        # spaces of its own: the agent seeds the one that it draws random actions from
        super().__init__(n_envs, deepcopy(self.common.observation), deepcopy(self.common.action))

    def reset(self) -> np.ndarray:
        """Starts (or restarts) the present visit's task in every copy."""
        return self._start_task()

    def step_async(self, actions: np.ndarray) -> None:
        """Takes the agent's actions, in the common action space."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Makes one vector step, and a switch where the visit is over."""
        step = self._env.step(self._actions)
        infos = self._infos(step)
        self.labels = step.labels
        self.agent_steps += self.num_envs
        if self.finished or not self._visit_is_over(step):
            return step.observations, step.rewards, step.done, infos
        if self.visit.number + 1 == len(self.sequence.visits):
            self.finished = True
            return step.observations, step.rewards, step.done, infos

        for copy in np.flatnonzero(~step.done):
            infos[copy]["terminal_observation"] = step.final[copy]
            infos[copy]["TimeLimit.truncated"] = True
        self._next_visit()
        return self._start_task(), step.rewards, np.ones(self.num_envs, dtype=bool), infos

    def state_dict(self) -> dict[str, Any]:
        """Returns the place in the sequence and the environment in mid-episode: plain values and arrays."""
        return {
            "agent_steps": self.agent_steps,
            "visit": [self.visit.number, self.visit.start, self.visit.end],
            "finished": self.finished,
            "saved": self._saved,
            "recent": list(self._recent),
            "episodes": self._episodes,
            "seed": self._seed,
            "failures": dict(self.failures.counts),
            "task": self._env.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was called; the observation there is known to who called it."""
        number, start, end = state["visit"]
        self.visit = replace(self.sequence.visits[number], start=start, end=end)
        self.agent_steps, self.finished = state["agent_steps"], state["finished"]
        self._saved, self._seed = state["saved"], state["seed"]
        self.failures.counts.clear()
        self.failures.counts.update(state["failures"])
        self._start_counting()
        self._recent.extend(state["recent"])
        self._episodes = state["episodes"]
        self._make_task()
        self._env.load_state_dict(state["task"])

    def _visit_is_over(self, step: Step) -> bool:
        task = self.visit.task
        if task.may_end_early and step.episodes:
            self._episodes += len(step.episodes)
            self._recent.extend(episode.raw_return for episode in step.episodes)
            if task.episodes is not None and self._episodes >= task.episodes:
                return True
            full = len(self._recent) == task.return_window
            if full and task.return_threshold is not None and np.mean(self._recent) >= task.return_threshold:
                return True
        if self.agent_steps < self.visit.end:
            return False
        return self.sequence.switch == "step" or bool(step.episodes)

    def _next_visit(self) -> None:
        self._saved += max(self.visit.end - self.agent_steps, 0)
        planned = self.sequence.visits[self.visit.number + 1]
        if planned.end - self._saved <= self.agent_steps:
            raise EnvironmentFailed(
                f"Task '{self.visit.task.name}': its last episode outlasted the whole next visit, which was to end at "
                f"agent step {planned.end - self._saved:,}; now it is {self.agent_steps:,}. With switch=episode_end "
                "visits must be longer than episodes: train anew with more agent_steps, or sequence.switch=step."
            )
        self.visit = replace(planned, start=self.agent_steps, end=planned.end - self._saved)
        self._start_counting()

    def _start_counting(self) -> None:
        self._recent = deque(maxlen=self.visit.task.return_window)
        self._episodes = 0

    def _start_task(self) -> np.ndarray:
        self._make_task()
        return self._env.reset(self._visit_seed())

    def _make_task(self) -> None:
        if self._env.task is not self.visit.task:
            self._env.close()
            self._env = TaskEnv(self.visit.task, self.num_envs, self.common, failures=self.failures)

    def _visit_seed(self) -> int:
        if self.agent_steps == 0:
            return self._seed
        return int(np.random.SeedSequence([self._seed, self.agent_steps]).generate_state(1)[0] >> 1)

    def _infos(self, step: Step) -> list[dict[str, Any]]:
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if step.final is step.observations:  # nothing has ended
            return infos
        for copy in np.flatnonzero(step.done):
            infos[copy]["terminal_observation"] = step.final[copy]
            infos[copy]["TimeLimit.truncated"] = bool(step.truncated[copy] and not step.terminated[copy])
        for episode in step.episodes:
            infos[episode.copy]["episode"] = {
                "r": episode.raw_return,
                "l": episode.length,
                "task": self.visit.task.index,
                "visit": self.visit.number,
            }
            if episode.success is not None:
                infos[episode.copy]["is_success"] = bool(episode.success)
        return infos

    @property
    def task(self) -> Task:
        """Returns the present task."""
        return self.visit.task

    @property
    def labelled(self) -> bool:
        """Says whether all tasks are classification streams."""
        return all(task.is_stream for task in self.sequence.tasks)

    @property
    def allowed(self) -> np.ndarray | None:
        """Says which actions, (actions,) bool, the present task allows, where it does."""
        return self._env.allowed

    def close(self) -> None:
        """Frees the environments."""
        self._env.close()

    def seed(self, seed: int | None = None) -> SequenceOf[int | None]:
        """Seeds the next `reset`; stable-baselines3 calls it with the agent's seed."""
        if seed is not None:
            self._seed = seed
        return [self._seed + copy for copy in range(self.num_envs)]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Returns attributes of this VecEnv, repeated for each copy: the copies may live in native code."""
        return [getattr(self, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refuses: a task is described by its configuration."""
        raise AttributeError(
            f"'{attr_name}' cannot be set on the copies of a task; describe it in the sequence."
        )

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Refuses: the copies may live in native code."""
        raise AttributeError(f"'{method_name}' cannot be called on the copies of a task.")

    def env_is_wrapped(self, wrapper_class: type, indices: VecEnvIndices = None) -> list[bool]:
        """Says whether the copies are wrapped in `wrapper_class`; episodes are counted as Monitor does."""
        from stable_baselines3.common.monitor import Monitor

        return [wrapper_class is Monitor] * len(list(self._get_indices(indices)))
