"""PPO for all runs of a pack at once: to act, to value, to learn from a rollout.

Shapes: S runs, N environment copies, T steps of a rollout, B samples of a minibatch, I inputs, A actions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from isorl.agents.batched.pack import together
from isorl.agents.batched.slopes import (
    TERMS,
    Coefficients,
    draw_categorical,
    draw_gaussian,
    each_run,
    surrogate_slopes,
)
from isorl.agents.batched.stack import Stack, joined
from isorl.agents.batched.table import Unstackable
from isorl.agents.batched.terms import terms_of
from isorl.agents.ppo import ContinualPPO


class Samples(NamedTuple):
    """Some samples of every run: (S, B, ...) each."""

    inputs: np.ndarray
    actions: np.ndarray
    old_values: np.ndarray
    old_log_prob: np.ndarray
    advantages: np.ndarray
    returns: np.ndarray


@together(ContinualPPO, "act")
def act(stack: Stack, observations: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(N, ...) of each run -> its actions (N, ...), values (N, 1), log-probabilities (N,)."""
    discrete = stack.agents[0].policy.is_discrete
    outputs = stack.forward(stack.inputs(joined(observations)))
    actor = outputs["actor"]
    noise = torch.empty(actor.shape)
    for row, agent in zip(noise.unbind(), stack.agents, strict=True):
        draw = row.exponential_ if discrete else row.normal_
        draw(generator=agent.streams.torch)
    if discrete:
        actions, log_prob = draw_categorical(actor, noise.numpy())
    else:
        actions, log_prob = draw_gaussian(actor, stack.outside[0][0], noise.numpy())
    return list(zip(actions, outputs["critic"], log_prob, strict=True))


@together(ContinualPPO, "values")
def values(stack: Stack, observations: list[np.ndarray]) -> list[Tensor]:
    """(N, ...) of each run -> its values (N, 1)."""
    return list(torch.from_numpy(stack.forward(stack.inputs(joined(observations)))["critic"]).unbind())


@together(ContinualPPO, "train")
def train(stack: Stack, clip_ranges: list[tuple[float, float | None]]) -> list[dict[str, Tensor]]:
    """ContinualPPO.train of every run on its own rollout; what each logs: name -> (updates,)."""
    agents, first = stack.agents, stack.agents[0]
    if any(agent.target_kl is not None for agent in agents):
        raise Unstackable("each may end its epochs early (target_kl)")
    told = _coefficients(stack, clip_ranges)
    stack.begin()
    rollout = _rollout(stack)
    logged, added_to = [], []
    for _ in range(first.n_epochs):
        for batch in _minibatches(stack, rollout):
            outputs = stack.forward.trace(batch.inputs)
            log_std = stack.outside[0][0] if stack.outside else None
            (actor, critic, *others), parts = surrogate_slopes(told, batch, outputs, log_std)
            stack.forward.back({"actor": actor, "critic": critic})
            for (_, gradient), found in zip(stack.outside, others, strict=True):
                gradient[...] = found
            terms = terms_of(stack)
            seen = terms.seen(batch.inputs)
            added = terms.add(batch.inputs, seen)
            stack.update()
            terms.after_update(seen)
            logged.append(np.add.reduce(parts, -1) / parts.shape[-1])
            added_to.append(0.0 if added is None else added)
    means = np.stack(logged, -1)  # (terms, S, updates)
    columns = dict(zip(TERMS, means, strict=True))
    columns["loss"] = (
        columns["policy_gradient_loss"]
        + told.ent_coef * columns["entropy_loss"]
        + told.vf_coef * columns["value_loss"]
        + np.stack(np.broadcast_arrays(*added_to), -1)
    )
    of_last_epoch = len(logged) // first.n_epochs
    columns["approx_kl"] = columns["approx_kl"][:, -of_last_epoch:]  # as SB3 logs it
    return [
        {name: torch.from_numpy(column[run]) for name, column in columns.items()}
        for run in range(len(agents))
    ]


def _coefficients(stack: Stack, clip_ranges: list[tuple[float, float | None]]) -> Coefficients:
    """What each run's loss is weighted and clipped with."""
    agents = stack.agents
    clip_range, clip_range_vf = zip(*clip_ranges, strict=True)
    return Coefficients(
        agents[0].normalize_advantage,
        each_run([agent.ent_coef for agent in agents]),
        each_run([agent.vf_coef for agent in agents]),
        each_run(clip_range),
        None if clip_range_vf[0] is None else each_run(clip_range_vf),
    )


def _rollout(stack: Stack) -> Samples:
    """Everything that the runs have collected: (S, T N, ...)."""
    buffers = [agent.rollout_buffer for agent in stack.agents]
    names = ("observations", "actions", "values", "log_probs", "advantages", "returns")
    both = (np.stack([getattr(buffer, name) for buffer in buffers]) for name in names)
    observations, *others = (array.reshape(len(buffers), -1, *array.shape[3:]) for array in both)
    return Samples(stack.inputs(observations), *others)


def _minibatches(stack: Stack, rollout: Samples) -> Iterator[Samples]:
    """One epoch: each run's samples in an order of its own, drawn and cut as in RolloutTensors.get."""
    agents = stack.agents
    orders = np.stack([agent.rollout_buffer.order(agent.streams.numpy) for agent in agents])
    rows = orders + np.arange(len(agents))[:, None] * orders.shape[1]
    inputs, *small = (column.reshape(-1, *column.shape[2:]) for column in rollout)
    shuffled = [column[rows] for column in small]
    size = agents[0].batch_size
    for start in range(0, rows.shape[1], size):
        part = slice(start, start + size)
        yield Samples(inputs[rows[:, part]], *(column[:, part] for column in shuffled))
