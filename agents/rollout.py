"""A rollout buffer that hands out minibatches as tensors on the learner's device, in stable-baselines3's order.

Rewards, returns and advantages are stable-baselines3's to the last bit. What differs: a rollout may be shorter than
planned; it is written once and sent to the device once (from pinned memory, without waiting); and each minibatch is one
gather on the device.

Shapes: T steps, N copies, B batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from torch import Tensor

PER_STEP = ("rewards", "returns", "episode_starts", "values", "log_probs", "advantages")


class Rollout(RolloutBuffer):
    """stable-baselines3's RolloutBuffer for observations and actions that are arrays.

    Args:
        args: of RolloutBuffer.
        channels_last: lay out images (H, W, C) in memory, which convolutions are faster on and round differently.
        kwargs: of RolloutBuffer.

    Attributes:
        pos: the steps that the present rollout has, `buffer_size` at most.
    """

    def __init__(self, *args: Any, channels_last: bool = False, **kwargs: Any) -> None:
        self.channels_last = channels_last
        super().__init__(*args, **kwargs)

    def reset(self) -> None:
        """Forgets the rollout; the memory is kept."""
        if not hasattr(self, "host"):
            self._allocate()
        self._on_device: dict[str, Tensor] | None = None
        self._answers: list[tuple[Any, Any]] = []
        self.pos, self.full, self.generator_ready = 0, False, False

    def _allocate(self) -> None:
        pinned = self.device.type == "cuda"
        shape = (self.buffer_size, self.n_envs)
        numbered = isinstance(self.action_space, spaces.Discrete | spaces.MultiDiscrete)
        kinds: dict[str, tuple[tuple[int, ...], Any]] = {
            "observations": ((*shape, *self.obs_shape), self.observation_space.dtype),
            "actions": ((*shape, self.action_dim), self.action_space.dtype if numbered else np.float32),
            **{name: (shape, np.float32) for name in PER_STEP},
        }
        self.host: dict[str, Tensor] = {}
        """(T, N, ...) of everything, in the memory of the arrays."""
        for name, (size, dtype) in kinds.items():
            kind = torch.from_numpy(np.empty(0, dtype)).dtype
            self.host[name] = torch.zeros(size, dtype=kind, pin_memory=pinned)
            setattr(self, name, self.host[name].numpy())

    def add(
        self,
        obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        episode_start: np.ndarray,
        value: Tensor | np.ndarray,
        log_prob: Tensor | np.ndarray,
    ) -> None:
        """Stores one step of every copy: (N, ...); value (N, 1) and log_prob (N,) may be tensors on the device."""
        t = self.pos
        self.observations[t] = obs
        self.actions[t] = action.reshape(self.n_envs, self.action_dim)
        self.rewards[t], self.episode_starts[t] = reward, episode_start
        self._answers.append((value, log_prob))
        self.pos += 1

    def compute_returns_and_advantage(self, last_values: Tensor, dones: np.ndarray) -> None:
        """Ends the rollout and computes GAE (Schulman et al. 2016, eq. 16).

        delta_t = r_t + gamma v_{t+1} (1 - done_t) - v_t,   A_t = delta_t + gamma lambda (1 - done_t) A_{t+1}

        Args:
            last_values: (N, 1), the values after the last step.
            dones: (N,), which episodes ended at the last step.
        """
        T = self.pos
        values, log_probs = (_stacked(column) for column in zip(*self._answers, strict=True))
        self._answers.clear()
        self.values[:T], self.log_probs[:T] = values[..., 0], log_probs
        goes_on = 1.0 - np.concatenate([self.episode_starts[1:T], dones[None].astype(np.float32)])
        next_values = np.concatenate([self.values[1:T], last_values.cpu().numpy().reshape(1, -1)])
        delta = self.rewards[:T] + self.gamma * next_values * goes_on - self.values[:T]
        decay = self.gamma * self.gae_lambda * goes_on
        advantage: Any = 0
        for t in reversed(range(T)):
            advantage = delta[t] + decay[t] * advantage
            self.advantages[t] = advantage
        np.add(self.advantages[:T], self.values[:T], out=self.returns[:T])
        self.full = True

    def get(self, batch_size: int | None = None) -> Iterator[RolloutBufferSamples]:  # type: ignore[override]
        """Yields minibatches in a new random order, drawn and cut as in stable-baselines3."""
        assert self.full, "the rollout is not complete"
        if self._on_device is None:
            self._on_device = self._send()
        data = self._on_device
        rows = torch.from_numpy(self.order(np.random)).to(self.device, non_blocking=True)
        names = ("actions", "values", "log_probs", "advantages", "returns")
        small = [data[name][rows].split(batch_size or len(rows)) for name in names]
        for part, *others in zip(rows.split(batch_size or len(rows)), *small, strict=True):
            observations = data["observations"].index_select(0, part)
            if self.channels_last and observations.ndim == 4:
                observations = observations.permute(0, 3, 1, 2)  # (B, C, H, W)
            yield RolloutBufferSamples(observations, *others)

    def order(self, rng: Any) -> np.ndarray:
        """Draws a random order of the rows (T N,). SB3 counts samples copy by copy, we store them step by step."""
        samples = self.pos * self.n_envs
        return np.arange(samples).reshape(self.pos, self.n_envs).T.ravel()[rng.permutation(samples)]

    def _send(self) -> dict[str, Tensor]:
        sent = {
            name: host[: self.pos].flatten(0, 1).to(self.device, non_blocking=True)
            for name, host in self.host.items()
        }
        if (
            self.channels_last and sent["observations"].ndim == 4
        ):  # (T N, C, H, W) -> (T N, H, W, C) in memory
            sent["observations"] = sent["observations"].permute(0, 2, 3, 1).contiguous()
        return sent


def _stacked(steps: tuple[Any, ...]) -> np.ndarray:
    """Stacks arrays or tensors to (T, ...), with one transfer from the device."""
    if isinstance(steps[0], Tensor):
        return torch.stack([torch.as_tensor(step) for step in steps]).cpu().numpy()
    return np.stack([np.asarray(step) for step in steps])
