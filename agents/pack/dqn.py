"""DQN for all runs of a pack at once: to act greedily, to learn from replay.

Shapes: S runs, N environment copies, T steps in the replay, B samples of a minibatch, I inputs, A actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.compiled import computes
from agents.dqn import ContinualDQN
from agents.pack.pack import together
from agents.pack.slopes import td_slope
from agents.pack.stack import Forward, Stack, Unstackable
from agents.pack.terms import Terms, check_same
from agents.replay import CountedReplay


@together(ContinualDQN, "act")
@torch.no_grad()
def act(stack: Stack, observations: list[np.ndarray]) -> list[np.ndarray]:
    """(N, ...) of each run -> its greedy actions (N,)."""
    return list(stack.forward.answer(stack.inputs(np.stack(observations)))["q"].argmax(-1).numpy())


@together(ContinualDQN, "train")
def train(stack: Stack, arguments: list[tuple[int, int]]) -> list[Tensor]:
    """ContinualDQN.train of every run on its own replay; the mean loss of each."""
    first = stack.agents[0]
    for agent in stack.agents:
        if type(agent.replay_buffer) is not CountedReplay or agent._vec_normalize_env is not None:
            raise Unstackable("their replay stores frames once, or normalises")
    check_same(arguments, "the number of updates")
    check_same([agent.policy.optimizer.param_groups[0]["lr"] for agent in stack.agents], "the learning rate")
    assert stack.targets is not None
    steps, size = arguments[0]
    terms, logged, compute = Terms(stack), [], computes(first)
    for _ in range(steps):
        observations, next_observations, actions, rewards, dones = _samples(stack, size)
        inputs, next_inputs = stack.inputs(observations), stack.inputs(next_observations)
        gradients, losses = compute(
            td_gradients,
            (stack.forward, stack.targets, first.gamma),
            (stack.leaves, stack.targets.leaves, inputs, next_inputs, actions, rewards, dones),
        )
        seen = terms.seen(inputs)
        added = terms.added(seen)
        stack.update(gradients, first.max_grad_norm, added, terms.parameters)
        terms.after_update(seen)
        logged.append(losses if added is None else losses + added.detach())
    return list(torch.stack(logged).mean(0).unbind())


def td_gradients(
    forward: Forward,
    targets: Forward,
    gamma: float,
    leaves: Sequence[Tensor],
    target_leaves: Sequence[Tensor],
    inputs: Tensor,
    next_inputs: Tensor,
    actions: Tensor,
    rewards: Tensor,
    dones: Tensor,
) -> tuple[Sequence[Tensor], Tensor]:
    """The gradients of the sum of the losses of all runs by `leaves`, and the losses (S,)."""
    with torch.no_grad():
        next_q = targets(next_inputs, target_leaves)["q"].max(-1).values
    q = forward(inputs, leaves)["q"]
    slope, losses = td_slope(q, actions, rewards + (1 - dones) * gamma * next_q)
    return torch.autograd.grad([q], leaves, [slope]), losses


def _samples(stack: Stack, size: int) -> tuple[np.ndarray, np.ndarray, Tensor, Tensor, Tensor]:
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
            array.reshape(-1, *array.shape[2:]).take(rows, axis=0, out=out[run])
    ended = dones * (1 - timeouts)
    return *both, *(torch.from_numpy(array) for array in (actions, rewards, ended))
