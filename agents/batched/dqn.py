"""DQN for all runs of a pack at once: to act greedily, to learn from replay.

Shapes: S runs, N environment copies, T steps in the replay, B samples of a minibatch, I inputs, A actions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from isorl.agents.batched.pack import together
from isorl.agents.batched.slopes import each_run, td_slope
from isorl.agents.batched.stack import Stack, joined
from isorl.agents.batched.table import Unstackable
from isorl.agents.batched.terms import terms_of
from isorl.agents.dqn import ContinualDQN
from isorl.agents.replay import CountedReplay


@together(ContinualDQN, "act")
def act(stack: Stack, observations: list[np.ndarray]) -> list[np.ndarray]:
    """(N, ...) of each run -> its greedy actions (N,)."""
    return list(stack.forward(stack.inputs(joined(observations)))["q"].argmax(-1))


@together(ContinualDQN, "train")
def train(stack: Stack, arguments: list[tuple[int, int]]) -> list[Tensor]:
    """ContinualDQN.train of every run on its own replay; the mean loss of each."""
    for agent in stack.agents:
        if type(agent.replay_buffer) is not CountedReplay or agent._vec_normalize_env is not None:
            raise Unstackable("their replay stores frames once, or normalises")
    if len(set(arguments)) > 1:
        raise Unstackable("they differ in the number of updates")
    assert stack.targets is not None
    stack.begin()
    gamma, logged = each_run([agent.gamma for agent in stack.agents]), []
    steps, size = arguments[0]
    for _ in range(steps):
        observations, next_observations, actions, rewards, dones = _samples(stack, size)
        inputs = stack.inputs(observations)
        next_q = stack.targets(stack.inputs(next_observations))["q"]
        targets = rewards + (1 - dones) * gamma * np.maximum.reduce(next_q, -1)
        slope, losses = td_slope(stack.forward.trace(inputs)["q"], actions, targets)
        stack.forward.back({"q": slope})
        terms = terms_of(stack)
        seen = terms.seen(inputs)
        added = terms.add(inputs, seen)
        stack.update()
        terms.after_update(seen)
        logged.append(losses if added is None else losses + added)
    return list(torch.from_numpy(np.stack(logged)).mean(0).unbind())


def _samples(stack: Stack, size: int) -> tuple[np.ndarray, ...]:
    """A minibatch of each run, drawn as stable-baselines3's ReplayBuffer does.

    Returns:
        Observations and next ones (S, B, ...), actions (S, B, 1), rewards and terminations (S, B).
    """
    first: Any = stack.agents[0].replay_buffer
    shape = (len(stack.agents), size)
    both = np.empty((2, *shape, *first.obs_shape), first.observations.dtype)
    actions = np.empty((*shape, 1), first.actions.dtype)
    rewards, dones, timeouts = np.empty((3, *shape), np.float32)
    for run, agent in enumerate(stack.agents):
        replay, rng = agent.replay_buffer, agent.streams.numpy
        steps = rng.randint(0, replay.buffer_size if replay.full else replay.pos, size=size)
        rows = steps * replay.n_envs + rng.randint(0, high=replay.n_envs, size=(size,))
        for array, out in (
            (replay.observations, both[0]),
            (replay.next_observations, both[1]),
            (replay.actions, actions),
            (replay.rewards, rewards),
            (replay.dones, dones),
            (replay.timeouts, timeouts),
        ):
            # "clip": the rows are there, and looking whether they are takes a copy
            array.reshape(-1, *array.shape[2:]).take(rows, axis=0, out=out[run], mode="clip")
    return *both, actions, rewards, dones * (1 - timeouts)
