"""Any Gymnasium environment with shifts, for agents other than ours: `isorl/Shifted-v0`.

gymnasium.make("isorl/Shifted-v0", env="CartPole-v1", shifts=[{"name": "rotate_observation", "seed": 1}])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from isorl.envs.copies import make_env
from isorl.envs.shifts import make_shift


class Shifted(gymnasium.Wrapper):
    """Applies shifts to one environment.

    Args:
        env: a registered Gymnasium id, or an environment.
        shifts: options of each, as in the tasks of a sequence (`envs/shifts.py`).
        render_mode: of the environment that `env` names.
        kwargs: its other arguments.
    """

    def __init__(
        self,
        env: str | gymnasium.Env,
        shifts: Sequence[Mapping[str, Any]] = (),
        render_mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(env, str):
            env = make_env(env, kwargs if render_mode is None else {**kwargs, "render_mode": render_mode})
        super().__init__(env)
        self._shifts = []
        for options in shifts:
            shift = make_shift(self.observation_space, self.action_space, options)
            self.observation_space, self.action_space = shift.observation_space, shift.action_space
            self._shifts.append(shift)

    def reset(self, **kwargs: Any) -> tuple[Any, dict]:
        """Starts an episode."""
        observation, info = self.env.reset(**kwargs)
        return self._seen(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        """Makes one step."""
        for shift in reversed(self._shifts):
            action = shift.actions(np.asarray([action]))[0]
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._seen(observation), reward, terminated, truncated, info

    def _seen(self, observation: np.ndarray) -> np.ndarray:
        batch = observation[None]
        for shift in self._shifts:
            batch = shift.observations(batch)
        return batch[0]
