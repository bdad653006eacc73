"""The base of this project's own environments: all copies in a few numpy arrays, with same-step autoreset.

A subclass describes the spaces, how episodes begin and what one move does; it gets the vector environment, the
usual single environment (`SingleEnv`) and the exact state of both.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space


class NumpyVectorEnv(VectorEnv):
    """Plays `num_envs` copies; one random generator serves them all.

    Args:
        num_envs: number of copies.
        observation_space: of one copy.
        action_space: of one copy.
        max_steps: agent steps after which an episode is over.
        truncates: whether that end is a truncation (the task goes on without us) or a termination.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "autoreset_mode": AutoresetMode.SAME_STEP,
        "render_modes": ["rgb_array"],
        "render_fps": 10,
    }
    STATE: ClassVar[tuple[str, ...]] = ()
    """Names of the arrays that hold the copies' state, first axis num_envs."""

    def __init__(
        self,
        num_envs: int,
        observation_space: spaces.Box,
        action_space: spaces.Discrete,
        max_steps: int,
        truncates: bool = True,
    ) -> None:
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = observation_space, action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self.max_steps, self.truncates = max_steps, truncates
        self.steps = np.zeros(num_envs, dtype=np.int64)

    def begin(self, copies: np.ndarray) -> None:
        """Starts an episode in the copies that the (num_envs,) mask names."""
        raise NotImplementedError

    def advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Makes one move in every copy; returns rewards (num_envs,) float32 and terminated (num_envs,) bool."""
        raise NotImplementedError

    def observe(self) -> np.ndarray:
        """Returns a new array of observations, (num_envs, ...)."""
        raise NotImplementedError

    def draw(self, copy: int) -> np.ndarray:
        """Returns a (H, W, 3) uint8 picture of one copy."""
        raise NotImplementedError

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode in every copy; a list of seeds counts by its first."""
        super().reset(seed=seed[0] if isinstance(seed, list) else seed)
        self.steps[:] = 0
        self.begin(np.ones(self.num_envs, dtype=bool))
        return self.observe(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Takes (num_envs,) actions; returns observations, rewards, terminated, truncated, infos."""
        rewards, terminated = self.advance(np.asarray(actions))
        self.steps += 1
        over = (self.steps >= self.max_steps) & ~terminated
        truncated = over if self.truncates else np.zeros_like(over)
        done = terminated | over
        if not np.count_nonzero(done):  # a quarter of the time of any()
            return self.observe(), rewards, done, truncated, {}
        infos = {"final_obs": self.observe()}
        self.begin(done)
        self.steps[done] = 0
        return self.observe(), rewards, done & ~truncated, truncated, infos

    def render(self) -> list[np.ndarray]:  # type: ignore[override]
        """Returns a picture of each copy."""
        return [self.draw(copy) for copy in range(self.num_envs)]

    def state_dict(self) -> dict[str, Any]:
        """Returns the arrays and the generator: everything that later steps depend on."""
        arrays = {name: getattr(self, name).copy() for name in ("steps", *self.STATE)}
        return {"arrays": arrays, "random": self.np_random.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> np.ndarray:
        """Goes on where `state_dict` was called; returns the observations there."""
        for name, values in state["arrays"].items():
            getattr(self, name)[...] = values
        self.np_random.bit_generator.state = state["random"]
        return self.observe()


class SingleEnv(gymnasium.Env):
    """Plays one copy of a NumpyVectorEnv with the interface of gymnasium.make.

    Args:
        render_mode: None or rgb_array.
        kwargs: arguments of the vector environment.
    """

    VECTOR: ClassVar[type[NumpyVectorEnv]]
    metadata = NumpyVectorEnv.metadata

    def __init__(self, render_mode: str | None = None, **kwargs: Any) -> None:
        self.vector = self.VECTOR(1, **kwargs)
        self.observation_space = self.vector.single_observation_space
        self.action_space = self.vector.single_action_space
        self.render_mode = render_mode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode."""
        super().reset(seed=seed)
        self.vector.np_random = self.np_random
        observations, _ = self.vector.reset()
        return observations[0], {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Makes one move."""
        observations, rewards, terminated, truncated, infos = self.vector.step(np.array([action]))
        observation = infos["final_obs"][0] if "final_obs" in infos else observations[0]
        return observation, float(rewards[0]), bool(terminated[0]), bool(truncated[0]), {}

    def render(self) -> np.ndarray | None:
        """Returns an RGB picture; after the last step of an episode, of the next one's beginning."""
        return None if self.render_mode is None else self.vector.draw(0)
