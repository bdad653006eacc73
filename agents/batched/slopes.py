"""The losses of PPO and DQN with their derivatives by what the networks put out, written out, in numpy.

tests/pack/test_slopes.py holds both to the losses of agents/ppo.py and agents/dqn.py and to autograd.

Shapes: S runs, B samples of a minibatch, A actions or dimensions of an action.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from isorl.agents.distributions import HALF_LOG_2PI

TERMS = ("policy_gradient_loss", "value_loss", "entropy_loss", "clip_fraction", "approx_kl")
"""Of PPO's loss, under the names of SB3's log."""


class Coefficients(NamedTuple):
    """PPO's own names; of every run (S, 1)."""

    normalize_advantage: bool
    ent_coef: np.ndarray
    vf_coef: np.ndarray
    clip_range: np.ndarray
    clip_range_vf: np.ndarray | None


def each_run(values: Sequence[float]) -> np.ndarray:
    """(S, 1), to be multiplied with what every run has of every sample."""
    return np.array(values, np.float32)[:, None]


def surrogate_slopes(
    told: Coefficients, batch: Any, outputs: dict[str, np.ndarray], log_std: np.ndarray | None
) -> tuple[list[np.ndarray], np.ndarray]:
    """`agents.ppo.surrogate` (Schulman et al. 2017, eq. 9).

    Args:
        told: of its parts.
        batch: (S, B, ...) columns; actions as `draw` gives them.
        outputs: "actor" (S, B, A) and "critic" (S, B, 1).
        log_std: (S, A); None for discrete actions.

    Returns:
        The derivatives of every run's loss by the actor's outputs, by the critic's and, of Gaussian actions, by
        log_std, (S, A); and TERMS of the losses for the log: (5, S, B), to be averaged over the samples.
    """
    advantages, size = batch.advantages, batch.advantages.shape[-1]
    if told.normalize_advantage and size > 1:
        advantages = advantages - np.add.reduce(advantages, -1, keepdims=True) / size
        variance = np.add.reduce(advantages * advantages, -1, keepdims=True) / (size - 1)
        advantages /= np.sqrt(variance) + 1e-8

    log_prob, entropy, chain = (
        _categorical(outputs["actor"], batch.actions)
        if log_std is None
        else _gaussian(outputs["actor"], log_std[:, None], batch.actions)
    )
    log_ratio = log_prob - batch.old_log_prob
    ratio = np.exp(log_ratio)
    gain = advantages * ratio
    low, high = 1 - told.clip_range, 1 + told.clip_range
    least = np.minimum(gain, advantages * np.minimum(np.maximum(ratio, low), high))
    by_log_prob = gain * (gain <= least)  # a clipped gain depends on no probability
    by_log_prob /= -size
    actor, *others = chain(by_log_prob, told.ent_coef / -size)

    values = outputs["critic"][..., 0]
    error = values - batch.returns
    by_value = error
    if told.clip_range_vf is not None:
        change = values - batch.old_values
        kept = np.minimum(np.maximum(change, -told.clip_range_vf), told.clip_range_vf)
        error = batch.old_values + kept - batch.returns
        by_value = error * (np.abs(change) <= told.clip_range_vf)
    critic = by_value * (told.vf_coef * (2 / size))

    beyond = ratio - 1
    terms = np.empty((len(TERMS), *ratio.shape), ratio.dtype)
    np.negative(least, out=terms[0])
    np.multiply(error, error, out=terms[1])
    np.negative(entropy, out=terms[2])
    np.greater(np.abs(beyond), told.clip_range, out=terms[3], casting="unsafe")
    np.subtract(beyond, log_ratio, out=terms[4])
    return [actor, critic[..., None], *others], terms


Chain = Callable[[np.ndarray, np.ndarray], Sequence[np.ndarray]]
"""From the derivatives of a loss by log-probabilities (S, B) and by every entropy (S, 1) to those by the outputs."""


def _categorical(logits: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, Chain]:
    """Logits (S, B, A), actions (S, B, 1) -> log-probabilities (S, B), entropies H (S, B), and the chain rule.

    d log p(a) / d logits = onehot(a) - p,    d H / d logits = -p (log p + H)
    """
    log_p = log_softmax(logits)
    p = np.exp(log_p)
    entropy = -np.add.reduce(p * log_p, -1)
    taken = actions == np.arange(logits.shape[-1])  # (S, B, A)

    def chain(by_log_prob: np.ndarray, by_entropy: np.ndarray) -> tuple[np.ndarray]:
        by_each = by_log_prob[..., None]
        slope = taken * by_each - p * by_each
        if by_entropy.any():
            slope -= (log_p + entropy[..., None]) * p * by_entropy[..., None]
        return (slope,)

    return np.add.reduce(log_p, -1, where=taken), entropy, chain


def _gaussian(
    mean: np.ndarray, log_std: np.ndarray, actions: np.ndarray
) -> tuple[np.ndarray, np.ndarray, Chain]:
    """Means (S, B, A), log_std (S, 1, A), actions (S, B, A) -> as `_categorical`, with z = (a - mean) / std.

    d log p(a) / d mean = z / std,    d log p(a) / d log_std = z^2 - 1,    d H / d log_std = 1
    """
    inverse = np.exp(-log_std)
    z = (actions - mean) * inverse
    squared, dimensions = z * z, z.shape[-1]
    scale = np.add.reduce(log_std + np.float32(HALF_LOG_2PI), -1)  # (S, 1)
    log_prob = -0.5 * np.add.reduce(squared, -1) - scale
    entropy = np.broadcast_to(scale + np.float32(0.5 * dimensions), log_prob.shape)

    def chain(by_log_prob: np.ndarray, by_entropy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        by_each = by_log_prob[..., None]
        by_log_std = np.add.reduce(by_each * (squared - 1), 1) + by_entropy * z.shape[1]
        return by_each * z * inverse, by_log_std

    return log_prob, entropy, chain


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """(..., A) -> log-probabilities (..., A)."""
    shifted = logits - np.maximum.reduce(logits, -1, keepdims=True)
    shifted -= np.log(np.add.reduce(np.exp(shifted), -1, keepdims=True))
    return shifted


def draw_categorical(logits: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`agents.distributions.draw_categorical`: (S, B, A) and noise ~ Exp(1) -> actions, log-probabilities (S, B)."""
    log_p = log_softmax(logits)
    actions = (np.exp(log_p) / noise).argmax(-1)
    return actions, np.add.reduce(log_p, -1, where=actions[..., None] == np.arange(logits.shape[-1]))


def draw_gaussian(mean: np.ndarray, log_std: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`agents.distributions.draw_gaussian`: (S, B, A), log_std (S, A), noise ~ N(0, 1) -> actions, (S, B)."""
    scale = np.add.reduce(log_std + np.float32(HALF_LOG_2PI), -1)[:, None]
    actions = mean + noise * np.exp(log_std)[:, None]
    return actions, -0.5 * np.add.reduce(noise * noise, -1) - scale


def td_slope(q: np.ndarray, actions: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`agents.dqn.td_loss`: Huber's loss of the TD error (Mnih et al. 2015).

    Args:
        q: (S, B, A) values of all actions.
        actions: (S, B, 1).
        target: (S, B).

    Returns:
        The derivative of every run's loss by q, and the losses (S,).
    """
    taken, size = actions == np.arange(q.shape[-1]), q.shape[1]
    error = np.add.reduce(q, -1, where=taken) - target
    bounded = np.minimum(np.maximum(error, -1.0), 1.0)
    losses = np.add.reduce(bounded * (error - 0.5 * bounded), -1) / size  # e^2 / 2 up to 1, |e| - 1/2 beyond
    bounded /= size
    return taken * bounded[..., None], losses
