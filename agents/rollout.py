"""A rollout buffer that hands out minibatches as tensors on the learner's device, in stable-baselines3's order.

Rewards, returns and advantages are stable-baselines3's to the last bit. What differs is what happens to the data: it
is written once, sent to the device once per rollout (from pinned memory, without waiting), laid out for the network
once (images channels_last), and each minibatch is one gather on the device.

Shapes: T steps, N copies, B batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from torch import Tensor

PER_STEP = ("rewards", "returns", "episode_starts", "values", "log_probs", "advantages")


class RolloutTensors(RolloutBuffer):
    """stable-baselines3's RolloutBuffer for observations and actions that are arrays; takes its arguments."""

    def reset(self) -> None:
        """Forgets the rollout; the memory is kept."""
        if not hasattr(self, "host"):
            self._allocate()
        self._on_device: dict[str, Tensor] | None = None
        self.pos, self.full, self.generator_ready = 0, False, False

    def _allocate(self) -> None:
        pinned = self.device.type == "cuda"
        shape, N = (self.buffer_size, self.n_envs), self.n_envs
        kinds: dict[str, tuple[tuple[int, ...], Any]] = {
            "observations": ((*shape, *self.obs_shape), self.observation_space.dtype),
            "actions": ((*shape, self.action_dim), self.action_space.dtype),
            **{name: (shape, np.float32) for name in PER_STEP},
        }
        self.host: dict[str, Tensor] = {}
        """(T, N, ...) of everything, in the memory of the arrays."""
        for name, (size, dtype) in kinds.items():
            kind = torch.from_numpy(np.empty(0, dtype)).dtype
            self.host[name] = torch.zeros(size, dtype=kind, pin_memory=pinned)
            setattr(self, name, self.host[name].numpy())
        self._heard: list[tuple[Any, Any]] = []
        self._rows: np.ndarray = np.arange(self.buffer_size * N).reshape(self.buffer_size, N).T.ravel()
        """SB3 counts samples copy by copy, we store them step by step: its number -> our row."""

    def add(
        self,
        obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        episode_start: np.ndarray,
        value: Tensor | np.ndarray,
        log_prob: Tensor | np.ndarray,
    ) -> None:
        """One step of every copy: (N, ...); value (N, 1) and log_prob (N,) may be tensors and stay on the device."""
        t = self.pos
        self.observations[t] = obs
        self.actions[t] = action.reshape(self.n_envs, self.action_dim)
        self.rewards[t], self.episode_starts[t] = reward, episode_start
        self._heard.append((value, log_prob))
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def compute_returns_and_advantage(self, last_values: Tensor, dones: np.ndarray) -> None:
        """GAE (Schulman et al. 2016, eq. 16), with last_values (N, 1) and dones (N,) after the last step.

        delta_t = r_t + gamma v_{t+1} (1 - done_t) - v_t,   A_t = delta_t + gamma lambda (1 - done_t) A_{t+1}
        """
        values, log_probs = (_stacked(column) for column in zip(*self._heard, strict=True))
        self._heard.clear()
        self.values[:], self.log_probs[:] = values[..., 0], log_probs
        goes_on = 1.0 - np.concatenate([self.episode_starts[1:], dones[None].astype(np.float32)])
        next_values = np.concatenate([self.values[1:], last_values.cpu().numpy().reshape(1, -1)])
        delta = self.rewards + self.gamma * next_values * goes_on - self.values
        decay = self.gamma * self.gae_lambda * goes_on
        advantage: Any = 0
        for t in reversed(range(self.buffer_size)):
            advantage = delta[t] + decay[t] * advantage
            self.advantages[t] = advantage
        np.add(self.advantages, self.values, out=self.returns)

    def get(self, batch_size: int | None = None) -> Iterator[RolloutBufferSamples]:  # type: ignore[override]
        """Minibatches in a new random order, drawn and cut as in stable-baselines3."""
        assert self.full, "the rollout is not complete"
        if self._on_device is None:
            self._on_device = self._send()
        data = self._on_device
        order = self.order(np.random)
        rows = torch.from_numpy(order).to(self.device, non_blocking=True)
        names = ("actions", "values", "log_probs", "advantages", "returns")
        small = [data[name][rows].split(batch_size or len(rows)) for name in names]
        for part, *others in zip(rows.split(batch_size or len(rows)), *small, strict=True):
            observations = data["observations"].index_select(0, part)
            if observations.ndim == 4:
                observations = observations.permute(0, 3, 1, 2)  # (B, C, H, W), channels_last
            yield RolloutBufferSamples(observations, *others)

    def order(self, rng: Any) -> np.ndarray:
        """(T N,) rows in a new random order."""
        return self._rows[rng.permutation(len(self._rows))]

    def _send(self) -> dict[str, Tensor]:
        sent = {
            name: host.flatten(0, 1).to(self.device, non_blocking=True) for name, host in self.host.items()
        }
        if sent["observations"].ndim == 4:  # images: (T N, C, H, W) -> (T N, H, W, C) in memory
            sent["observations"] = sent["observations"].permute(0, 2, 3, 1).contiguous()
        return sent


def _stacked(steps: tuple[Any, ...]) -> np.ndarray:
    """Arrays or tensors -> (T, ...), with one transfer from the device."""
    if isinstance(steps[0], Tensor):
        return torch.stack([torch.as_tensor(step) for step in steps]).cpu().numpy()
    return np.stack([np.asarray(step) for step in steps])
