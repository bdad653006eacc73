"""PPO for all runs of a pack at once: to act, to value, to learn from a rollout.

Shapes: S runs, N environment copies, T steps of a rollout, B samples of a minibatch, I inputs, A actions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.compiled import computes
from agents.distributions import draw_categorical, draw_gaussian
from agents.pack.pack import together
from agents.pack.slopes import surrogate_slopes
from agents.pack.stack import Forward, Stack, Unstackable
from agents.pack.terms import Terms, check_same
from agents.ppo import ContinualPPO, Weights


class Samples(NamedTuple):
    """Some samples of every run: (S, B, ...) each."""

    inputs: Tensor
    actions: Tensor
    old_values: Tensor
    old_log_prob: Tensor
    advantages: Tensor
    returns: Tensor


@together(ContinualPPO, "act")
@torch.no_grad()
def act(stack: Stack, observations: list[np.ndarray]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(N, ...) of each run -> its actions (N, ...), values (N, 1), log-probabilities (N,)."""
    discrete = stack.agents[0].policy.is_discrete
    outputs = stack.forward.answer(stack.inputs(np.stack(observations)))
    actor = outputs["actor"]
    noise = torch.empty_like(actor)
    for row, agent in zip(noise, stack.agents, strict=True):
        draw = row.exponential_ if discrete else row.normal_
        draw(generator=agent.streams.torch)
    if discrete:
        actions, log_prob = draw_categorical(actor, noise=noise)
    else:
        actions, log_prob = draw_gaussian(actor, stack.outside[0].unsqueeze(1), noise=noise)
    return list(zip(actions.unbind(), outputs["critic"].unbind(), log_prob.unbind(), strict=True))


@together(ContinualPPO, "values")
@torch.no_grad()
def values(stack: Stack, observations: list[np.ndarray]) -> list[Tensor]:
    """(N, ...) of each run -> its values (N, 1)."""
    return list(stack.forward.answer(stack.inputs(np.stack(observations)))["critic"].unbind())


@together(ContinualPPO, "train")
def train(stack: Stack, clip_ranges: list[tuple[float, float | None]]) -> list[dict[str, Tensor]]:
    """ContinualPPO.train of every run on its own rollout; what each logs: name -> (updates,)."""
    first = stack.agents[0]
    if first.target_kl is not None:
        raise Unstackable("each may end its epochs early (target_kl)")
    check_same(clip_ranges, "clip_range")
    check_same([agent.policy.optimizer.param_groups[0]["lr"] for agent in stack.agents], "the learning rate")
    terms, rollout, compute = Terms(stack), _rollout(stack), computes(first)
    weights = Weights(first.normalize_advantage, first.ent_coef, first.vf_coef)
    logged: list[dict[str, Tensor]] = []
    for _ in range(first.n_epochs):
        for batch in _minibatches(stack, rollout):
            gradients, parts = compute(
                surrogate_gradients, (stack.forward, weights, clip_ranges[0]), (stack.leaves, batch)
            )
            seen = terms.seen(batch.inputs)
            added = terms.added(seen)
            stack.update(gradients, first.max_grad_norm, added, terms.parameters)
            terms.after_update(seen)
            logged.append(parts if added is None else {**parts, "added": added.detach()})
    columns = {name: torch.stack([parts[name] for parts in logged], dim=1) for name in logged[0]}
    columns["loss"] = (
        columns["policy_gradient_loss"]
        + first.ent_coef * columns["entropy_loss"]
        + first.vf_coef * columns["value_loss"]
        + columns.pop("added", 0.0)
    )
    of_last_epoch = len(logged) // first.n_epochs
    columns["approx_kl"] = columns["approx_kl"][:, -of_last_epoch:]  # as SB3 logs it
    return [{name: column[run] for name, column in columns.items()} for run in range(len(stack.agents))]


def surrogate_gradients(
    forward: Forward,
    weights: Weights,
    clip: tuple[float, float | None],
    leaves: Sequence[Tensor],
    batch: Samples,
) -> tuple[Sequence[Tensor], dict[str, Tensor]]:
    """The gradients of the sum of the losses of all runs by `leaves`, and the terms of the losses: name -> (S,)."""
    outputs = forward(batch.inputs, leaves)
    outside = leaves[len(forward.leaves) :]  # log_std, of Gaussian actions
    slopes, parts = surrogate_slopes(
        weights, batch, outputs, outside[0].unsqueeze(1) if outside else None, *clip
    )
    return torch.autograd.grad([*outputs.values(), *outside], leaves, slopes), parts


def _rollout(stack: Stack) -> Samples:
    """Everything that the runs have collected: (S, T N, ...)."""
    agents = stack.agents
    names = ("observations", "actions", "values", "log_probs", "advantages", "returns")
    host = [agent.rollout_buffer.host for agent in agents]
    observations, *others = (torch.stack([each[name] for each in host]).flatten(1, 2) for name in names)
    return Samples(stack.inputs(observations), *others)


def _minibatches(stack: Stack, rollout: Samples) -> Iterator[Samples]:
    """One epoch: each run's samples in an order of its own, drawn and cut as in RolloutTensors.get."""
    agents = stack.agents
    orders = np.stack([agent.rollout_buffer.order(agent.streams.numpy) for agent in agents])
    rows = torch.from_numpy(orders) + torch.arange(len(agents)).unsqueeze(1) * orders.shape[1]
    inputs, small = rollout.inputs.flatten(0, 1), [column.flatten(0, 1)[rows] for column in rollout[1:]]
    size = agents[0].batch_size
    for part, *others in zip(rows.split(size, 1), *(column.split(size, 1) for column in small), strict=True):
        yield Samples(inputs.index_select(0, part.flatten()).unflatten(0, part.shape), *others)
