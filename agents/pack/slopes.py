"""The losses of PPO and DQN with their derivatives by what the networks put out, written out.

For small networks autograd's many small steps through a loss were a fifth of an update. tests/pack/test_slopes.py holds
both to the losses of agents/ppo.py and agents/dqn.py and to autograd.

Shapes: S runs, B samples of a minibatch, A actions or dimensions of an action.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from agents.distributions import HALF_LOG_2PI
from agents.ppo import Weights


@torch.no_grad()
def surrogate_slopes(
    weights: Weights,
    batch: Any,
    outputs: dict[str, Tensor],
    log_std: Tensor | None,
    clip_range: float,
    clip_range_vf: float | None,
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """`agents.ppo.surrogate` (Schulman et al. 2017, eq. 9).

    Args:
        weights: of its parts; PPO's own names.
        batch: (S, B, ...) columns.
        outputs: "actor" (S, B, A) and "critic" (S, B, 1).
        log_std: (S, 1, A); None for discrete actions.
        clip_range: of the ratio of probabilities.
        clip_range_vf: of the values; None does not clip.

    Returns:
        The derivatives of the sum of all runs' losses by the actor's outputs, by the critic's and, of Gaussian
        actions, by log_std, (S, A); and the terms of the losses for the log: name -> (S,).
    """
    size = batch.advantages.shape[-1]
    advantages, values = batch.advantages, outputs["critic"][..., 0]
    if weights.normalize_advantage and size > 1:
        std, mean = torch.std_mean(advantages, -1, keepdim=True)
        advantages = (advantages - mean) / (std + 1e-8)

    log_prob, entropy, chain = (
        _categorical(outputs["actor"], batch.actions)
        if log_std is None
        else _gaussian(outputs["actor"], log_std, batch.actions)
    )
    log_ratio = log_prob - batch.old_log_prob
    ratio = log_ratio.exp()
    gain = advantages * ratio
    least = torch.min(gain, advantages * ratio.clamp(1 - clip_range, 1 + clip_range))
    by_log_prob = gain * (gain <= least) / -size  # a clipped gain depends on no probability
    actor, *others = chain(by_log_prob, -weights.ent_coef / size)

    error, moves = values - batch.returns, None
    if clip_range_vf is not None:
        change = values - batch.old_values
        error = batch.old_values + change.clamp(-clip_range_vf, clip_range_vf) - batch.returns
        moves = change.abs() <= clip_range_vf
    by_value = error * (2 * weights.vf_coef / size)
    critic = (by_value if moves is None else by_value * moves).unsqueeze(-1)

    each = [-least, error.square(), -entropy, ((ratio - 1).abs() > clip_range).float(), ratio - 1 - log_ratio]
    names = ("policy_gradient_loss", "value_loss", "entropy_loss", "clip_fraction", "approx_kl")
    terms = dict(zip(names, torch.stack(each).mean(-1).unbind(), strict=True))
    return [actor, critic, *others], terms


def _categorical(logits: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Any]:
    """Logits (S, B, A), actions (S, B, 1) -> log-probabilities (S, B), entropies H (S, B), and the chain rule.

    d log p(a) / d logits = onehot(a) - p,    d H / d logits = -p (log p + H)
    """
    log_p, actions = torch.log_softmax(logits, dim=-1), actions.long()
    p = log_p.exp()
    entropy = -(p * log_p).sum(-1)

    def chain(by_log_prob: Tensor, by_entropy: float) -> tuple[Tensor]:
        slope = p * -by_log_prob.unsqueeze(-1)
        if by_entropy:
            slope -= (log_p + entropy.unsqueeze(-1)).mul_(p).mul_(by_entropy)
        return (slope.scatter_add_(-1, actions, by_log_prob.unsqueeze(-1)),)

    return log_p.gather(-1, actions)[..., 0], entropy, chain


def _gaussian(mean: Tensor, log_std: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Any]:
    """Means (S, B, A), log_std (S, 1, A), actions (S, B, A) -> as `_categorical`, with z = (a - mean) / std.

    d log p(a) / d mean = z / std,    d log p(a) / d log_std = z^2 - 1,    d H / d log_std = 1
    """
    inverse = torch.exp(-log_std)
    z = (actions - mean) * inverse
    scale = (log_std + HALF_LOG_2PI).sum(-1)
    log_prob = -0.5 * z.square().sum(-1) - scale

    def chain(by_log_prob: Tensor, by_entropy: float) -> tuple[Tensor, Tensor]:
        by_each = by_log_prob.unsqueeze(-1)
        return by_each * z * inverse, (by_each * (z.square() - 1)).sum(1) + by_entropy * z.shape[1]

    return log_prob, (scale + 0.5 * log_std.shape[-1]).expand_as(log_prob), chain


@torch.no_grad()
def td_slope(q: Tensor, actions: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """`agents.dqn.td_loss`: Huber's loss of the TD error (Mnih et al. 2015).

    Args:
        q: (S, B, A) values of all actions.
        actions: (S, B, 1) int64.
        target: (S, B).

    Returns:
        The derivative of the sum of all runs' losses by q, and the losses (S,).
    """
    error = q.gather(-1, actions)[..., 0] - target
    bounded = error.clamp(-1, 1)
    losses = (bounded * (error - 0.5 * bounded)).mean(-1)  # e^2 / 2 up to 1, |e| - 1/2 beyond
    slope = torch.zeros_like(q).scatter_(-1, actions, (bounded / q.shape[1]).unsqueeze(-1))
    return slope, losses
