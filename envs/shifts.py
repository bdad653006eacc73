"""Shifts: transformations that make a new task of a known environment. Each is one class, registered by name.

A shift acts on batches, so it costs one numpy operation for all environment copies. Images are (C, H, W); every
channel (stacked frame) is treated alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from isorl.configs import UserError, nearest
from isorl.plasticity.registry import Registry


class Shift:
    """Transforms observations, actions or both. A shift holds its own random draw; two with one seed are the same.

    Args:
        observation_space: of the environment so far.
        action_space: of the environment so far.
    """

    changes_observations = True

    def __init__(self, observation_space: spaces.Box, action_space: spaces.Space) -> None:
        self.observation_space = observation_space
        self.action_space = action_space

    def observations(self, observations: np.ndarray) -> np.ndarray:
        """Takes (n_envs, ...) as the environment gives them; returns (n_envs, ...) as the agent sees them."""
        return observations

    def actions(self, actions: np.ndarray) -> np.ndarray:
        """Takes (n_envs, ...) as the agent gives them; returns (n_envs, ...) as the environment takes them."""
        return actions

    def state_dict(self) -> dict[str, Any]:
        """Returns what a shift with memory must save."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""


SHIFTS: Registry[Callable[..., Shift]] = Registry("shift")
"""Name in the `shifts` of a task -> class."""


@SHIFTS.register("rotate_observation")
class RotateObservation(Shift):
    """Multiplies a vector observation by one random rotation, uniform over SO(d).

    The task stays equally hard and its information complete; only the coordinates are new.
    """

    def __init__(self, observation_space: spaces.Box, action_space: spaces.Space, seed: int) -> None:
        _need("rotate_observation", observation_space, dimensions=1)
        super().__init__(_unbounded(observation_space), action_space)
        rotation = random_rotation(observation_space.shape[0], np.random.default_rng(seed))
        self.rotation = rotation.astype(self.observation_space.dtype)

    def observations(self, observations: np.ndarray) -> np.ndarray:
        """Returns R x for each row x of (n_envs, d)."""
        return observations @ self.rotation.T


@SHIFTS.register("offset_observation")
class OffsetObservation(Shift):
    """Adds one vector drawn from N(0, std^2) to every observation (Muppidi et al. 2024, TRAC: std 2)."""

    def __init__(
        self, observation_space: spaces.Box, action_space: spaces.Space, seed: int, std: float
    ) -> None:
        _need("offset_observation", observation_space, dimensions=1)
        super().__init__(_unbounded(observation_space), action_space)
        offset = np.random.default_rng(seed).normal(0.0, std, observation_space.shape)
        self.offset = offset.astype(self.observation_space.dtype)

    def observations(self, observations: np.ndarray) -> np.ndarray:
        """Returns (n_envs, d) of (n_envs, d)."""
        return observations + self.offset


@SHIFTS.register("permute_observation")
class PermuteObservation(Shift):
    """Reorders the entries of a vector, or the pixels of an image (all channels in the same way)."""

    def __init__(self, observation_space: spaces.Box, action_space: spaces.Space, seed: int) -> None:
        shape = observation_space.shape
        self._flat = (-1,) if len(shape) == 1 else (shape[0], -1)
        self.permutation = np.random.default_rng(seed).permutation(np.prod(shape[-2:], dtype=int))
        space = spaces.Box(
            self._permuted(observation_space.low[None])[0],
            self._permuted(observation_space.high[None])[0],
            dtype=observation_space.dtype.type,
        )
        super().__init__(space, action_space)

    def observations(self, observations: np.ndarray) -> np.ndarray:
        """Returns (n_envs, ...) with entry i taken from place permutation[i]."""
        return self._permuted(observations)

    def _permuted(self, batch: np.ndarray) -> np.ndarray:
        flat = batch.reshape(len(batch), *self._flat)
        return flat[..., self.permutation].reshape(batch.shape)


@SHIFTS.register("flip_observation")
class FlipObservation(Shift):
    """Mirrors images, "horizontal" (left and right change) or "vertical"."""

    AXES = {"horizontal": 3, "vertical": 2}  # noqa: RUF012

    def __init__(
        self, observation_space: spaces.Box, action_space: spaces.Space, direction: str = "horizontal"
    ) -> None:
        _need("flip_observation", observation_space, dimensions=3)
        if direction not in self.AXES:
            raise UserError(
                f"flip_observation: 'direction' is '{direction}'. {nearest(direction, self.AXES)}"
            )
        super().__init__(observation_space, action_space)
        self._axis = self.AXES[direction]

    def observations(self, observations: np.ndarray) -> np.ndarray:
        """Returns (n_envs, C, H, W), mirrored."""
        return np.ascontiguousarray(np.flip(observations, self._axis))


@SHIFTS.register("invert_observation")
class InvertObservation(Shift):
    """Swaps dark and bright: x becomes low + high - x."""

    def __init__(self, observation_space: spaces.Box, action_space: spaces.Space) -> None:
        _need("invert_observation", observation_space, bounded=True)
        super().__init__(observation_space, action_space)
        self._sum = observation_space.low + observation_space.high  # at most 255 for pixels from 0 to 255

    def observations(self, observations: np.ndarray) -> np.ndarray:
        """Returns (n_envs, ...), inverted."""
        return self._sum - observations


@SHIFTS.register("noisy_observation")
class NoisyObservation(Shift):
    """Adds white noise of standard deviation `std` (in the observation's unit) and clips to the space's bounds."""

    def __init__(
        self, observation_space: spaces.Box, action_space: spaces.Space, seed: int, std: float
    ) -> None:
        if std < 0:
            raise UserError(f"noisy_observation: 'std' is {std}; it must be at least 0.")
        super().__init__(observation_space, action_space)
        self.std, self._rng = std, np.random.default_rng(seed)

    def observations(self, observations: np.ndarray) -> np.ndarray:
        """Returns (n_envs, ...) with noise."""
        noise = self._rng.standard_normal(observations.shape, dtype=np.float32)
        noisy = observations + self.std * noise
        low, high = self.observation_space.low, self.observation_space.high
        return np.clip(noisy, low, high).astype(observations.dtype)

    def state_dict(self) -> dict[str, Any]:
        """Returns the generator of the noise that follows."""
        return {"random": self._rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self._rng.bit_generator.state = state["random"]


@SHIFTS.register("permute_actions")
class PermuteActions(Shift):
    """Renames discrete actions: the agent's action a is the environment's action permutation[a]."""

    changes_observations = False

    def __init__(self, observation_space: spaces.Box, action_space: spaces.Space, seed: int) -> None:
        if not isinstance(action_space, spaces.Discrete):
            raise UserError(f"permute_actions needs discrete actions, but these are {action_space}.")
        super().__init__(observation_space, action_space)
        self.permutation = np.random.default_rng([seed, 1]).permutation(int(action_space.n))

    def actions(self, actions: np.ndarray) -> np.ndarray:
        """Returns (n_envs,) actions of the environment for (n_envs,) of the agent."""
        return self.permutation[actions]


def random_rotation(dimension: int, rng: np.random.Generator) -> np.ndarray:
    """Returns a (d, d) float32 rotation, uniform over SO(d) (Mezzadri 2007, How to generate random matrices)."""
    q, r = np.linalg.qr(rng.standard_normal((dimension, dimension)))
    q *= np.sign(np.diag(r))  # makes the QR factor unique, hence uniform over O(d)
    if np.linalg.det(q) < 0:
        q[:, 0] *= -1
    return q.astype(np.float32)


def make_shift(
    observation_space: spaces.Space, action_space: spaces.Space, options: Mapping[str, Any]
) -> Shift:
    """Makes the shift that `options["name"]` names, with the other options as its arguments.

    Raises:
        UserError: an unknown name, wrong options, or a space that the shift cannot transform.
    """
    arguments = dict(options)
    name = arguments.pop("name", None)
    if name not in SHIFTS:
        raise UserError(f"There is no shift '{name}'. {nearest(name, SHIFTS)}")
    if not isinstance(observation_space, spaces.Box) or len(observation_space.shape) not in (1, 3):
        raise UserError(
            f"Shift '{name}' needs vectors or images, but the environment has {observation_space}."
        )
    try:
        return SHIFTS[name](observation_space, action_space, **arguments)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        reason = str(error).replace(f"{SHIFTS[name].__name__}.__init__() ", "")
        raise UserError(f"Shift '{name}': {reason}.") from None


def _need(name: str, space: spaces.Box, dimensions: int | None = None, bounded: bool = False) -> None:
    if dimensions is not None and len(space.shape) != dimensions:
        wanted = "vectors" if dimensions == 1 else "images"
        raise UserError(f"{name} needs {wanted}, but these observations have shape {space.shape}.")
    if bounded and not space.is_bounded():
        raise UserError(f"{name} needs bounded observations, but these are {space}.")


def _unbounded(space: spaces.Box) -> spaces.Box:
    dtype = space.dtype.type if np.issubdtype(space.dtype, np.floating) else np.float32
    return spaces.Box(-np.inf, np.inf, space.shape, dtype)
