"""Shifts: transformations that make a new task of a known environment. Each is one class and one line in SHIFTS.

A shift acts on batches, so it costs one numpy operation for all environment copies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from configs import UserError, nearest


class Shift:
    """Transforms the observation. A shift holds its own random draw; two with one seed are the same."""

    def __init__(self, space: spaces.Box) -> None:
        self.observation_space: spaces.Box = space

    def observations(self, observations: np.ndarray) -> np.ndarray:
        """(n_envs, ...) as the environment gives them -> (n_envs, ...) as the agent sees them."""
        raise NotImplementedError


class RotateObservation(Shift):
    """Multiplies a vector observation by one random rotation, uniform over SO(d).

    The task stays equally hard and its information complete; only the coordinates are new.
    """

    def __init__(self, space: spaces.Box, seed: int) -> None:
        if len(space.shape) != 1:
            raise UserError(f"rotate_observation needs vector observations, but these have shape {space.shape}.")
        super().__init__(spaces.Box(-np.inf, np.inf, space.shape, np.float32))
        self.rotation = random_rotation(space.shape[0], np.random.default_rng(seed))

    def observations(self, observations: np.ndarray) -> np.ndarray:
        """(n_envs, d) -> (n_envs, d), each row x becomes R x."""
        return observations @ self.rotation.T


def random_rotation(dimension: int, rng: np.random.Generator) -> np.ndarray:
    """A (d, d) float32 rotation, Haar-distributed over SO(d) (Mezzadri 2007, How to generate random matrices)."""
    q, r = np.linalg.qr(rng.standard_normal((dimension, dimension)))
    q *= np.sign(np.diag(r))  # makes the QR factor unique, hence uniform over O(d)
    if np.linalg.det(q) < 0:
        q[:, 0] *= -1
    return q.astype(np.float32)


SHIFTS: dict[str, Callable[..., Shift]] = {
    "rotate_observation": RotateObservation,
}


def make_shift(space: spaces.Space, options: Mapping[str, Any]) -> Shift:
    """The shift that `options["name"]` names, with the other options as its arguments.

    Raises:
        UserError: an unknown name, wrong options, or a space that the shift cannot transform.
    """
    arguments = dict(options)
    name = arguments.pop("name", None)
    if name not in SHIFTS:
        raise UserError(f"There is no shift '{name}'. {nearest(name, SHIFTS)}")
    if not isinstance(space, spaces.Box):
        raise UserError(f"Shift '{name}' needs a Box observation, but the environment has {space}.")
    try:
        return SHIFTS[name](space, **arguments)
    except TypeError as error:
        raise UserError(f"Shift '{name}': {error}") from None
