"""What S agents ask of a learner that learn from rollouts, a replay or labels, and which agents are of one form.

Shapes: S runs, N environment copies, B samples of a minibatch, I inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isorl.agents.batched.buffers import BatchedReplay, BatchedRollout, flat
from isorl.agents.batched.learner import BatchedLearner, parameters_of
from isorl.agents.batched.optimizer import options_of, steps_taken
from isorl.agents.batched.parameters import Unbatchable
from isorl.agents.batched.traced import Traces, why_not_traced
from isorl.plasticity.networks import masked


class BatchedOnPolicy(BatchedLearner):
    """S agents that learn from rollouts."""

    ALIKE = ("n_envs", "n_steps", "n_epochs", "batch_size", "target_kl", "normalize_advantage")

    def act(self, observations: list[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
        """Answers every run's observations (N, ...) with actions (N, ...), values (N, 1), log-probabilities (N,)."""
        noise = torch.empty(len(self.agents), len(observations[0]), self.agents[0].policy.noise_width)
        for own, agent in zip(noise.unbind(), self.agents, strict=True):
            agent.policy.fill_noise(own, agent.rng.torch)
        answers = self.compute(_answer, _stacked(observations), noise)
        actions, log_probs, values = (answer.numpy() for answer in answers)
        return list(zip(actions, values, log_probs, strict=True))

    def values(self, observations: list[np.ndarray]) -> list[Tensor]:
        """Values every run's observations (N, ...): (N, 1)."""
        return list(self.compute(_values, _stacked(observations))[0])

    def learn(self, coefficients: list[Any]) -> list[dict[str, Tensor]]:
        """Runs the agents' `update` on the rollouts of all; returns what each logs."""
        self.rollout_buffer = BatchedRollout(self.agents)
        columns = zip(*coefficients, strict=True)  # a number where all have the same, else a tensor (S,)
        folded = [each[0] if len(set(each)) == 1 else torch.tensor(each) for each in columns]
        logged = self.update(type(coefficients[0])(*folded))
        self.optimizer.tell_own()
        return [
            {name: value if value.ndim == 0 else value[:, run] for name, value in logged.items()}
            for run in range(len(self.agents))
        ]


class BatchedOffPolicy(BatchedLearner):
    """S agents that learn from a replay buffer."""

    ALIKE = ("n_envs", "batch_size", "train_freq", "gradient_steps")
    _vec_normalize_env = None

    def __init__(self, agents: Sequence[Any], traces: Traces) -> None:
        super().__init__(agents, traces)
        self.replay_buffer = BatchedReplay(self.agents)

    def act(self, observations: list[np.ndarray]) -> list[np.ndarray]:
        """Answers every run's observations (N, ...) with the greedy actions (N,)."""
        return list(self.compute(_answer, _stacked(observations))[0].numpy())

    def learn(self, arguments: list[tuple[int, int]]) -> list[Tensor]:
        """Runs the agents' `update` on the replay of all; returns the mean loss of each."""
        losses = self.update(*arguments[0])
        self.optimizer.tell_own()
        return list(losses.unbind())


class BatchedLabelled(BatchedLearner):
    """S agents that learn from labels."""

    ALIKE = ("n_envs",)

    def act(self, questions: list[tuple[Tensor, Tensor | None]]) -> list[np.ndarray]:
        """Answers every run's observations (B, ...) with the likeliest of the classes that it is allowed: (B,)."""
        observations, allowed = zip(*questions, strict=True)
        [logits] = self.compute(_logits, torch.stack(observations))
        return [masked(own, mask).argmax(1).numpy() for own, mask in zip(logits, allowed, strict=True)]

    def learn(self, batches: list[Any]) -> list[Tensor]:
        """Runs the agents' `update` on what each has just answered; returns the loss of each."""
        columns = zip(*(batch._replace(logits=None) for batch in batches), strict=True)
        losses = self.update(type(batches[0])(*map(_joined, columns)))
        self.optimizer.tell_own()
        return list(losses.unbind())


LEARNERS: dict[str, type[BatchedLearner]] = {
    "on_policy": BatchedOnPolicy,
    "off_policy": BatchedOffPolicy,
    "labels": BatchedLabelled,
}
"""What an agent says in `batched_as` -> how agents like it are computed as one."""


def form_of(agent: Any) -> Any:
    """Returns what must be equal for agents to be computed as one; rates, strengths and methods need not be.

    Raises:
        Unbatchable: this agent can only be computed alone.
    """
    policy = agent.policy
    if reason := why_not_traced(policy):
        raise Unbatchable(reason)
    if getattr(agent, "target_kl", None) is not None:
        raise Unbatchable("each run may end its epochs early (target_kl)")
    clips = (getattr(agent, name, None) for name in ("clip_range", "clip_range_vf"))
    if any(callable(clip) and len({clip(left) for left in (1.0, 0.5, 0.0)}) > 1 for clip in clips):
        raise Unbatchable("its clip range follows a schedule, and would be traced anew in each update")
    if agent.batched_as == "off_policy" and agent.get_vec_normalize_env() is not None:
        raise Unbatchable("each run normalises what it samples")
    if agent.batched_as == "off_policy" and not agent.replay_buffer.stores_arrays:
        raise Unbatchable("the replay does not store observations as they come")
    trained, others = parameters_of(agent)
    options = options_of(policy.optimizer)
    if len(steps_taken(policy.optimizer)) != 1:
        raise Unbatchable("its parameters have taken different numbers of steps")
    return (
        type(agent),
        str(agent.learner.networks),
        (policy.observation_space.shape, policy.observation_space.dtype, str(policy.action_space)),
        tuple((name, parameter.shape) for part in (trained, others) for name, parameter in part.items()),
        type(policy.optimizer),
        tuple(group.get("isometric") for group in policy.optimizer.param_groups),
        options.get("iso_target"),
        tuple(str(getattr(agent, name)) for name in LEARNERS[agent.batched_as].ALIKE),
        agent.clip_ranges() if hasattr(agent, "clip_ranges") else None,
    )


def _answer(agent: Any, observations: Tensor, noise: Tensor | None = None) -> Sequence[Tensor]:
    return agent.policy.answer(observations, noise)


def _values(agent: Any, observations: Tensor) -> Sequence[Tensor]:
    return [agent.policy.predict_values(observations)]


def _logits(agent: Any, observations: Tensor) -> Sequence[Tensor]:
    return [agent.policy(observations)]


def _joined(own: Sequence[Tensor | None]) -> Tensor | None:
    """Stacks what every run has; a mask that some lack leaves nothing out for them."""
    there = next((tensor for tensor in own if tensor is not None), None)
    if there is None:
        return None
    return torch.stack([torch.ones_like(there) if tensor is None else tensor for tensor in own])


def _stacked(arrays: list[np.ndarray]) -> Tensor:
    """Stacks observations (N, ...) to (S, N, I), three times as fast as np.stack."""
    return torch.from_numpy(flat(np.concatenate(arrays).reshape(len(arrays), *arrays[0].shape)))
