"""Copies of one task, each in a process of its own: one that hangs or dies is named, and made anew if that is wanted.

Every process keeps a vector environment of one copy, so what is played is the same as without processes, number by
number.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from isorl.envs.copies import seed_of_restart
from isorl.envs.failures import Failures
from isorl.envs.worker import Failed, Worker

LOG = logging.getLogger("isorl")
TOLD = ("life_lost", "is_success")
"""Infos that a copy gives at the end of an episode, where it has them."""
BEGINNING = 300.0
"""Seconds in which a copy must be made, begin an episode or tell its state."""
RESTORING = 3600.0
"""Seconds in which an episode must have been played again."""


class OneCopy:
    """Runs in the process: a vector environment of one copy, without the axis of copies and needless infos.

    Args:
        env: the environment.
    """

    def __init__(self, env: Any) -> None:
        self.env = env

    def describe(self) -> tuple[Any, Any, dict[str, Any]]:
        """Returns its observation space, action space and metadata."""
        return self.env.single_observation_space, self.env.single_action_space, self.env.metadata

    def reset(self, seed: int, steps: int) -> np.ndarray:
        """Begins an episode of a copy that has drifted for `steps`."""
        return self.env.reset(seed=seed, options={"steps": steps})[0][0]

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, np.ndarray | None, dict[str, bool]]:
        """Returns observation, reward, terminated, truncated, and at an end the last observation and the infos TOLD."""
        observations, rewards, terminated, truncated, infos = self.env.step(np.asarray(action)[None])
        done = terminated[0] or truncated[0]
        final = infos["final_obs"][0] if done else None
        told = {name: bool(infos[name][0]) for name in TOLD if done and name in infos}
        return observations[0], rewards[0], terminated[0], truncated[0], final, told

    def render(self) -> np.ndarray:
        """Returns a frame."""
        return self.env.render()[0]

    def state_dict(self) -> Any:
        """Returns the state of the environment."""
        return self.env.state_dict()

    def load_state_dict(self, state: Any) -> np.ndarray:
        """Restores it; returns the observation."""
        return self.env.load_state_dict(state)[0]

    def close(self) -> None:
        """Frees the environment."""
        self.env.close()


class IsolatedCopies:
    """Runs `n_envs` copies in processes of their own, with same-step autoreset and an exact state.

    Args:
        make: makes a vector environment of one copy.
        n_envs: how many.
        failures: what is done about those that fail, and how long a step may take.

    Raises:
        UserError: the environment cannot be made.
        Failed: it hangs or dies while it is made.
    """

    def __init__(self, make: Callable[[], Any], n_envs: int, failures: Failures) -> None:
        self._make, self._failures = functools.partial(_alone, make), failures
        self._workers: list[Worker] = []
        try:
            for number in range(n_envs):
                self._workers.append(Worker(self._make, f"copy {number}"))
                self._workers[number].ask(BEGINNING, "make")
            for number in range(n_envs):
                self._answer(number)
            self._workers[0].ask(BEGINNING, "describe")
            self.single_observation_space, self.single_action_space, self.metadata = self._answer(0)
        except BaseException:
            self.close()
            raise
        shape = self.single_observation_space.shape
        self._latest = np.zeros((n_envs, *shape), self.single_observation_space.dtype)
        self._seed, self._steps = 0, 0  # of the latest reset, and since then: for copies that are made anew

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode in every copy; copy i is seeded with seed + i."""
        self._seed, self._steps = int(seed), 0
        for number, worker in enumerate(self._workers):
            worker.ask(BEGINNING, "reset", seed + number, 0)
        self._latest = np.stack([self._begun(number) for number in range(len(self._workers))])
        return self._latest, {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Makes one agent step in all copies at once; infos hold `final_obs`, `failed` and those TOLD."""
        self._steps += 1
        for worker, action in zip(self._workers, actions, strict=True):
            worker.ask(self._failures.config.step_seconds, "step", action)
        n_envs = len(self._workers)
        finals = np.empty(n_envs, dtype=object)
        failed = np.zeros(n_envs, dtype=bool)
        rows = []
        for number in range(n_envs):
            try:
                row = self._answer(number)
            except Failed as error:
                first = self._made_anew(number, error)
                row, failed[number] = (first, 0.0, False, True, self._latest[number], {}), True
            rows.append(row)
            finals[number] = row[4]
        observations, rewards, terminated, truncated, _, told = zip(*rows, strict=True)
        self._latest = np.stack(observations)
        ended = np.array(terminated), np.array(truncated)
        infos: dict[str, Any] = {}
        if (ended[0] | ended[1]).any():
            infos = {"final_obs": finals, "failed": failed}
            for name in {name for one in told for name in one}:
                infos[name] = np.array([one.get(name, False) for one in told])
        return self._latest, np.array(rewards), *ended, infos

    def state_dict(self) -> dict[str, Any]:
        """Returns the states of the copies.

        A copy whose process has died meanwhile has none: the next step finds it dead, and does so again after
        `load_state_dict`, since only a step can tell the learner that an episode was cut short.
        """
        for worker in self._workers:
            worker.ask(BEGINNING, "state_dict")
        states = []
        for number, worker in enumerate(self._workers):
            try:
                states.append({"state": self._answer(number)})
            except Failed:
                if self._failures.config.environment == "stop":
                    raise
                worker.kill()
                states.append({"latest": self._latest[number].copy()})
        return {"copies": states, "seed": self._seed, "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> np.ndarray:
        """Restores every copy; returns the observations."""
        self._seed, self._steps = state["seed"], state["steps"]
        for worker, copy in zip(self._workers, state["copies"], strict=True):
            if "latest" in copy:
                worker.kill()
            else:
                worker.ask(RESTORING, "load_state_dict", copy["state"])
        self._latest = np.stack([
            copy["latest"] if "latest" in copy else self._answer(number)
            for number, copy in enumerate(state["copies"])
        ])  # fmt: skip
        return self._latest

    def render(self) -> list[np.ndarray]:
        """Returns a frame of each copy."""
        for worker in self._workers:
            worker.ask(BEGINNING, "render")
        return [self._answer(number) for number in range(len(self._workers))]

    def close(self) -> None:
        """Ends the processes."""
        for worker in self._workers:
            worker.leave()
        for worker in self._workers:
            worker.close()

    def _answer(self, number: int) -> Any:
        """That of one copy, named where it failed."""
        try:
            return self._workers[number].answer()
        except Failed as error:
            raise Failed(f"copy {number}: {error}") from None

    def _begun(self, number: int) -> np.ndarray:
        try:
            return self._answer(number)
        except Failed as error:
            return self._made_anew(number, error)

    def _made_anew(self, number: int, error: Failed) -> np.ndarray:
        """First observation of a copy that is made anew, where that is wanted; else raises `error`."""
        if self._failures.config.environment == "stop":
            raise error
        self._failures.counts["restarts"] += 1
        LOG.warning("made anew: %s", error)
        self._workers[number].kill()
        self._workers[number].close()
        worker = self._workers[number] = Worker(self._make, f"copy {number}")
        worker.ask(BEGINNING, "make")
        self._answer(number)
        seed = seed_of_restart(self._seed, number, self._failures.counts["restarts"])
        worker.ask(BEGINNING, "reset", seed, self._steps)
        return self._answer(number)


def _alone(make: Callable[[], Any]) -> OneCopy:
    return OneCopy(make())
