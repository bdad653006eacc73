"""DQN's replay buffers: stable-baselines3's, and one that stores every frame of stacked images once.

Of four stacked frames three were there a step ago, and the next observation brings one new: 7.1 kB per transition
of 84 x 84 Atari instead of 56 kB. What is sampled is the same, element by element.

Shapes: T steps in the buffer, N copies, C frames in a stack, B batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor

BLACK, WHITE = -1, -2
"""Numbers of the two frames that are always there: before a game begins, and planes that announce a task."""
SLACK = 0.01
"""Room for frames that belong to no second transition: the first ones of each game."""


class CountedReplay(ReplayBuffer):
    """stable-baselines3's replay buffer, which also knows how much it was given: so its growth can be saved.

    Attributes:
        added: vector steps since it was last cleared.
        generation: how often it was cleared.
    """

    added = 0
    generation = 0

    @property
    def stores_arrays(self) -> bool:
        """Whether `observations` and `next_observations` are plain arrays (T, N, ...)."""
        return not self.optimize_memory_usage

    def add(
        self,
        obs: np.ndarray,
        next_obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Stores one vector step of arrays (N, ...), the last observations of ended episodes among `next_obs`."""
        if self.optimize_memory_usage or not isinstance(self.observation_space, spaces.Box):
            super().add(obs, next_obs, action, reward, done, infos)
            self.added += 1
        else:  # the same, without the copies that are made there first
            self.observations[self.pos], self.next_observations[self.pos] = obs, next_obs
            self._finish(action, reward, done, infos)

    def rows(self, batch_size: int, rng: Any) -> np.ndarray:
        """Draws the rows (B,) of a minibatch among (T N,), as stable-baselines3's ReplayBuffer does."""
        steps = rng.randint(0, self.buffer_size if self.full else self.pos, size=batch_size)
        return steps * self.n_envs + rng.randint(0, high=self.n_envs, size=(batch_size,))

    def _finish(
        self, action: np.ndarray, reward: np.ndarray, done: np.ndarray, infos: list[dict[str, Any]]
    ) -> None:
        """What belongs to a step besides its observations."""
        t = self.pos
        self.actions[t] = action.reshape(self.n_envs, self.action_dim)
        self.rewards[t], self.dones[t] = reward, done
        if self.handle_timeout_termination:
            self.timeouts[t] = [info.get("TimeLimit.truncated", False) for info in infos]
        self.added += 1
        self.pos = (t + 1) % self.buffer_size
        self.full |= self.pos == 0

    def reset(self) -> None:
        """Forgets everything."""
        super().reset()
        self.added = 0
        self.generation += 1

    def refill(self, first: int, steps: Mapping[str, np.ndarray]) -> None:
        """Puts back saved `steps`, name of an array -> (K, N, ...), of which the first was number `first`."""
        places = (first + np.arange(len(steps["dones"]))) % self.buffer_size
        for name, values in steps.items():
            getattr(self, name)[places] = values


class FrameReplay(CountedReplay):
    """A replay buffer for stacked uint8 frames (C, H, W) that keeps each frame once.

    Frames are numbered as they come and kept in a ring; a transition is two stacks of numbers. A stack that does not
    continue the one before it (a new game, another task) brings its frames along, so any images may be stored.
    Takes the arguments of stable-baselines3's ReplayBuffer.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
    ) -> None:
        # not ReplayBuffer's own, which reserves the memory that is to be saved
        super(ReplayBuffer, self).__init__(
            buffer_size, observation_space, action_space, device, n_envs=n_envs
        )
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.optimize_memory_usage, self.handle_timeout_termination = False, handle_timeout_termination
        rows = (self.buffer_size, n_envs)
        self.actions = np.zeros((*rows, self.action_dim), self._maybe_cast_dtype(action_space.dtype))
        self.rewards, self.dones, self.timeouts = np.zeros((3, *rows), np.float32)
        frames, *pixels = self.obs_shape
        self._numbers = np.zeros((2, *rows, frames), np.int32)  # of an observation, of the next one
        self._needed = np.zeros(self.buffer_size, np.int64)  # by a step: the lowest number
        capacity = int(self.buffer_size * n_envs * (1 + SLACK)) + 2 * frames * n_envs
        self._ring = np.zeros((capacity, *pixels), np.uint8)
        self._constant = np.stack([np.zeros(pixels, np.uint8), np.full(pixels, 255, np.uint8)])
        self._begin()

    stores_arrays = False

    def reset(self) -> None:
        """Forgets everything."""
        super().reset()
        self._begin()

    def _begin(self) -> None:
        self._pushed = 0
        self._last = np.zeros((self.n_envs, *self.obs_shape), np.uint8)
        self._last_numbers = np.full((self.n_envs, len(self._last[0])), BLACK)

    @property
    def observations(self) -> Stacks:  # type: ignore[override]
        """The observations (T, N, C, H, W), put together from frames where they are indexed."""
        return Stacks(self, 0)

    @property
    def next_observations(self) -> Stacks:  # type: ignore[override]
        """The observations (T, N, C, H, W), put together from frames where they are indexed."""
        return Stacks(self, 1)

    def add(
        self,
        obs: np.ndarray,
        next_obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Stores one vector step of arrays (N, ...), the last observations of ended episodes among `next_obs`."""
        t = self.pos
        self._needed[t] = self._pushed  # what was here is forgotten
        for copy in range(self.n_envs):
            now = self._recognise(obs[copy], self._last[copy], self._last_numbers[copy])
            after = self._recognise(next_obs[copy], obs[copy], now)
            self._numbers[0, t, copy], self._numbers[1, t, copy] = now, after
            self._last_numbers[copy] = after
            self._needed[t] = min(self._needed[t], _lowest(now), _lowest(after))
        self._last[:] = next_obs
        self._finish(action, reward, done, infos)

    def refill(self, first: int, steps: Mapping[str, np.ndarray]) -> None:
        """Puts back saved `steps`, which must follow those put back before."""
        self.pos, self.full, self.added = first % self.buffer_size, first >= self.buffer_size, first
        names = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
        for obs, after, actions, rewards, dones, cut in zip(*(steps[name] for name in names), strict=True):
            self.add(obs, after, actions, rewards, dones, [{"TimeLimit.truncated": each} for each in cut])

    def _recognise(self, stack: np.ndarray, known: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Numbers (C,) of the frames of `stack` (C, H, W), which often continues the `known` one."""
        if np.array_equal(stack, known):
            return numbers.copy()
        if np.array_equal(stack[:-1], known[1:]):
            return np.array([*numbers[1:], self._push(stack[-1], numbers)])
        return np.array([self._push(frame, numbers) for frame in stack])

    def _push(self, frame: np.ndarray, in_use: np.ndarray) -> int:
        first = frame.flat[0]
        if first in (0, 255) and (frame == first).all():
            return WHITE if first else BLACK
        if self._pushed >= len(self._ring):
            self._make_room(in_use)
        self._ring[self._pushed % len(self._ring)] = frame
        self._pushed += 1
        return self._pushed - 1

    def _make_room(self, in_use: np.ndarray) -> None:
        """Enlarges the ring if its oldest frame is still needed: many short games take more room than planned."""
        steps = (self.pos, (self.pos + 1) % self.buffer_size if self.full else 0)
        oldest = min(*self._needed[list(steps)], _lowest(in_use), _lowest(self._last_numbers))
        if self._pushed - oldest < len(self._ring):
            return
        numbers = np.arange(oldest, self._pushed)
        ring = np.zeros((len(self._ring) * 17 // 16 + 1, *self._ring.shape[1:]), np.uint8)
        ring[numbers % len(ring)] = self._ring[numbers % len(self._ring)]
        self._ring = ring

    def numbered(self, steps: slice) -> np.ndarray:
        """Returns the numbers (K, 2, N, C) of the frames at `steps`: of the observations and of the next ones."""
        return self._numbers[:, steps].swapaxes(0, 1)

    def frames(self, first: int, end: int) -> list[np.ndarray]:
        """Returns the frames `first` to `end` - 1, (K, H, W), not copied: two parts, the ring being round."""
        size, place = len(self._ring), first % len(self._ring)
        count = end - first
        return [self._ring[place : place + count], self._ring[: max(place + count - size, 0)]]

    def stacks(self, numbers: np.ndarray) -> np.ndarray:
        """Looks up frames (..., C, H, W) by their numbers (..., C)."""
        frames = self._ring[numbers % len(self._ring)]
        constant = numbers < 0
        if constant.any():
            frames[constant] = self._constant[BLACK - numbers[constant]]
        return frames

    def _get_samples(self, batch_inds: np.ndarray, env: Any = None) -> ReplayBufferSamples:
        copies = np.random.randint(0, high=self.n_envs, size=len(batch_inds))
        now, after = self.stacks(self._numbers[:, batch_inds, copies])
        ended = self.dones[batch_inds, copies] * (1 - self.timeouts[batch_inds, copies])
        rewards = self.rewards[batch_inds, copies].reshape(-1, 1)
        data: tuple[Any, ...] = (
            self._normalize_obs(now, env),
            self.actions[batch_inds, copies],
            self._normalize_obs(after, env),
            ended.reshape(-1, 1),
            self._normalize_reward(rewards, env),
        )
        return ReplayBufferSamples(*(self.to_torch(array) for array in data))

    def to_torch(self, array: np.ndarray, copy: bool = True) -> Tensor:
        """Sends an array to the learner's device; from pinned memory without waiting where that is a GPU."""
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)


def _lowest(numbers: np.ndarray) -> int:
    """The oldest frame in the ring among `numbers`."""
    return int(numbers.min(initial=np.iinfo(np.int64).max, where=numbers >= 0))


class Stacks:
    """Observations of a FrameReplay as one array would give them: read by index, by whoever saves the buffer."""

    def __init__(self, replay: FrameReplay, which: int) -> None:
        self._replay, self._which = replay, which
        self.shape = (replay.buffer_size, replay.n_envs, *replay.obs_shape)
        self.dtype = np.dtype(np.uint8)

    def __getitem__(self, index: Any) -> np.ndarray:
        """The same as of an array; the index is over steps and copies."""
        return self._replay.stacks(self._replay._numbers[self._which][index])


def holds_frames(space: spaces.Space) -> bool:
    """Tells whether observations of `space` are stacked pictures of values up to 255."""
    return is_image_space(space, check_channels=False) and space.shape[0] > 1  # type: ignore[index]
