"""Gymnasium's CartPole-v1 with all copies in one numpy array: the same numbers to the last bit, several times faster.

Each copy draws its beginnings from a generator of its own, seeded as Gymnasium seeds it. (Gymnasium's own vector
version resets one step late, which learners cannot use, and draws for all copies from one generator.)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.utils.seeding import np_random

from isorl.envs.numpy_env import NumpyVectorEnv

GRAVITY, FORCE, SECONDS = 9.8, 10.0, 0.02
POLE_MASS, HALF_LENGTH = 0.1, 0.5
MASS = POLE_MASS + 1.0  # with the cart
POLE_MOMENT = POLE_MASS * HALF_LENGTH
FARTHEST, STEEPEST = 2.4, 12 * 2 * math.pi / 360
HIGH = np.array([FARTHEST * 2, np.inf, STEEPEST * 2, np.inf], dtype=np.float32)


class CartPoles(NumpyVectorEnv):
    """Plays `num_envs` carts of CartPole-v1 (Barto, Sutton and Anderson 1983)."""

    STATE = ("state",)

    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs, spaces.Box(-HIGH, HIGH, dtype=np.float32), spaces.Discrete(2), 500)
        self._rows = np.zeros((4, num_envs))  # position, its speed, angle, its speed
        self.state = self._rows.T
        self._generators: list[np.random.Generator] = []

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode in every copy; copy i is seeded with seed + i."""
        first = seed[0] if isinstance(seed, list) else seed
        if first is not None or not self._generators:
            seeds = [None if first is None else first + copy for copy in range(self.num_envs)]
            self._generators = [np_random(each)[0] for each in seeds]
        return super().reset(seed=first)

    def begin(self, copies: np.ndarray) -> None:
        """Puts carts near the middle, poles nearly upright."""
        for copy in np.flatnonzero(copies):
            self.state[copy] = self._generators[copy].uniform(low=-0.05, high=0.05, size=(4,))

    def advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Applies Gymnasium's formulas in its order: https://coneural.org/florian/papers/05_cart_pole.pdf."""
        x, x_dot, theta, theta_dot = self._rows
        force = np.where(actions == 1, FORCE, -FORCE)
        cos, sin = np.cos(theta), np.sin(theta)
        temp = (force + POLE_MOMENT * np.square(theta_dot) * sin) / MASS
        theta_acc = (GRAVITY * sin - cos * temp) / (
            HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * np.square(cos) / MASS)
        )
        x_acc = temp - POLE_MOMENT * theta_acc * cos / MASS
        x += SECONDS * x_dot
        x_dot += SECONDS * x_acc
        theta += SECONDS * theta_dot
        theta_dot += SECONDS * theta_acc
        fallen = (np.abs(x) > FARTHEST) | (np.abs(theta) > STEEPEST)
        return np.ones(self.num_envs, dtype=np.float32), fallen

    def observe(self) -> np.ndarray:
        """Returns the carts' states, (num_envs, 4)."""
        return self.state.astype(np.float32, order="C")

    def state_dict(self) -> dict[str, Any]:
        """Returns the carts and the generator of each copy."""
        return {**super().state_dict(), "copies": [each.bit_generator.state for each in self._generators]}

    def load_state_dict(self, state: dict[str, Any]) -> np.ndarray:
        """Goes on where `state_dict` was called; returns the observations there."""
        self._generators = [np_random(0)[0] for _ in range(self.num_envs)]
        for generator, saved in zip(self._generators, state["copies"], strict=True):
            generator.bit_generator.state = saved
        return super().load_state_dict(state)
