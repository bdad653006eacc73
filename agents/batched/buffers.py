"""The buffers of S runs as one: minibatches with a first dimension S, each run's samples drawn as it draws them alone.

Shapes: S runs, N environment copies, T steps, B samples of a minibatch, I inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.type_aliases import ReplayBufferSamples, RolloutBufferSamples


class BatchedRollout:
    """The rollouts of S runs, of equal length."""

    def __init__(self, agents: Sequence[Any]) -> None:
        self._agents = agents
        buffers = [agent.rollout_buffer for agent in agents]
        steps = buffers[0].pos
        names = ("observations", "actions", "values", "log_probs", "advantages", "returns")
        columns = ([getattr(buffer, name)[:steps] for buffer in buffers] for name in names)
        self._columns = [  # (S, T N, ...)
            np.stack([own.reshape(-1, *own.shape[2:]) for own in column]) for column in columns
        ]
        self._columns[0] = flat(self._columns[0])

    def get(self, batch_size: int) -> Iterator[RolloutBufferSamples]:
        """Yields minibatches (S, B, ...) of one epoch, each run's samples in the order that it draws alone."""
        orders = [agent.rollout_buffer.order(agent.rng.numpy) for agent in self._agents]
        rows = np.stack(orders) + np.arange(len(orders))[:, None] * len(orders[0])
        shuffled = (column.reshape(-1, *column.shape[2:])[rows] for column in self._columns)
        parts = (torch.from_numpy(column).split(batch_size, dim=1) for column in shuffled)
        yield from map(RolloutBufferSamples, *parts)


class BatchedReplay:
    """The replay buffers of S runs."""

    def __init__(self, agents: Sequence[Any]) -> None:
        self._agents, self._buffers = agents, [agent.replay_buffer for agent in agents]
        self._gammas = np.array([agent.gamma for agent in agents], np.float32)[:, None, None]

    def sample(self, batch_size: int, env: Any = None) -> ReplayBufferSamples:
        """Returns a minibatch (S, B, ...), every run's rows drawn as it draws them alone."""
        pairs = zip(self._agents, self._buffers, strict=True)
        rows = [buffer.rows(batch_size, agent.rng.numpy) for agent, buffer in pairs]
        shape, first = (len(rows), batch_size), self._buffers[0]
        observations, after = np.empty((2, *shape, *first.obs_shape), first.observations.dtype)
        actions = np.empty((*shape, 1), first.actions.dtype)
        rewards, dones, timeouts = np.empty((3, *shape), np.float32)
        names = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
        for name, out in zip(names, (observations, after, actions, rewards, dones, timeouts), strict=True):
            for run, buffer in enumerate(self._buffers):
                array = getattr(buffer, name)
                # "clip": the rows are there, and looking whether they are takes a copy
                array.reshape(-1, *array.shape[2:]).take(rows[run], axis=0, out=out[run], mode="clip")
        ended = (dones * (1 - timeouts))[..., None]
        columns = (flat(observations), actions, flat(after), ended, rewards[..., None], self._gammas)
        return ReplayBufferSamples(*map(torch.from_numpy, columns))


def flat(observations: np.ndarray) -> np.ndarray:
    """Flattens observations (S, B, ...) to (S, B, I)."""
    return observations.reshape(*observations.shape[:2], -1)
