"""ContinualPPO: stable-baselines3's PPO with the seams that plasticity methods need, from the rollout to the step.

`train` hands the rollout to `update`, which restates SB3's with two calls added (`methods.add_loss`,
`methods.after_update`) and gathers the logged numbers as tensors, so a GPU is not waited for in every minibatch. It is
the one text by which every run learns: plain ones, several computed as one, compiled ones and those on a GPU. Without
methods it computes exactly what SB3 computes, bit for bit; tests/agents/test_parity.py holds it to that.

Shapes: B samples of a minibatch; ... nothing, or S runs that are computed as one (agents/batched).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import explained_variance
from torch import Tensor
from torch.nn import functional as F

from isorl.agents.collect import collect_rollout
from isorl.agents.continual import Continual
from isorl.agents.fast import Fast
from isorl.agents.fast_policies import FastActorCritic
from isorl.agents.policies import NetworkActorCritic
from isorl.agents.rollout import Rollout


class Coefficients(NamedTuple):
    """The numbers of the loss, some of which follow schedules."""

    normalize_advantage: bool
    clip_range: float
    clip_range_vf: float | None
    ent_coef: float | Tensor
    vf_coef: float | Tensor


class ContinualPPO(Continual, Fast, PPO):
    """PPO that lives through task switches.

    Takes stable-baselines3's arguments, `methods` and `switch` (see `Continual`), `exact`, `precision` and `compile`
    (see `Fast`), and the policy "NetworkPolicy", whose network is chosen by
    `policy_kwargs={"network": NetworkSpec(...)}`.
    """

    FAST_POLICIES: ClassVar[dict[type[BasePolicy], type[BasePolicy]]] = {NetworkActorCritic: FastActorCritic}
    collect = staticmethod(collect_rollout)
    batched_as = "on_policy"

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        **PPO.policy_aliases,
        "NetworkPolicy": NetworkActorCritic,
    }

    def _setup_model(self) -> None:
        if isinstance(self.observation_space, spaces.Box) and self.rollout_buffer_class is None:
            self.rollout_buffer_class = Rollout
        super()._setup_model()

    def _choose_fast_parts(self) -> None:
        super()._choose_fast_parts()
        self.rollout_buffer_kwargs = {**self.rollout_buffer_kwargs, "channels_last": True}

    def train(self) -> None:
        """Updates the policy `n_epochs` times over the collected rollout."""
        self._update_learning_rate(self.policy.optimizer)
        clip_range, clip_range_vf = self.clip_ranges()
        coefficients = Coefficients(
            self.normalize_advantage, clip_range, clip_range_vf, self.ent_coef, self.vf_coef
        )
        logged = self.request_batched("learn", coefficients)
        if logged is None:
            with self.rng.installed():
                logged = self.update(coefficients)
        self._n_updates += int(logged.pop("epochs"))
        self._log(logged, coefficients)

    def clip_ranges(self) -> tuple[float, float | None]:
        """Returns the clip ranges of policy and value now, which may follow schedules."""
        progress = self._current_progress_remaining
        clip_range: Any = self.clip_range
        clip_range_vf: Any = self.clip_range_vf
        return clip_range(progress), clip_range_vf and clip_range_vf(progress)

    def update(self, coefficients: Coefficients) -> dict[str, Tensor]:
        """Learns from the rollout: the whole update of PPO (Schulman et al. 2017).

        Returns:
            What is logged: "epochs" made, and by name the terms of every minibatch's loss (minibatches, ...).
        """
        self.policy.set_training_mode(True)
        logged: dict[str, list[Tensor]] = defaultdict(list)
        for epoch in range(1, self.n_epochs + 1):
            begin = len(logged["loss"])
            for batch in self.rollout_buffer.get(self.batch_size):
                method_batch = self.method_batch(batch)
                loss, terms = self.loss(batch, coefficients)
                loss = self.methods.add_loss(loss, method_batch)
                for name, term in {**terms, "loss": loss}.items():
                    logged[name].append(term.detach())
                if self.target_kl is not None and approx_kl(terms["log_ratio"]) > 1.5 * self.target_kl:
                    return _statistics(logged, epoch, begin, coefficients)
                self.policy.optimizer.zero_grad()
                loss.sum().backward()
                self.clip_gradients()
                self.policy.optimizer.step()
                self.methods.after_update(method_batch)
        return _statistics(logged, epoch, begin, coefficients)

    def loss(self, batch: Any, coefficients: Coefficients) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss (...) of a minibatch (..., B) without what methods add, and its terms (...) for the log."""
        return self.maybe_compile(minibatch_loss)(self.policy, batch, coefficients)

    def _log(self, logged: dict[str, Tensor], coefficients: Coefficients) -> None:
        """Records SB3's keys: means over the update, the last loss."""
        last_loss = logged.pop("loss")[-1]
        for name, terms in logged.items():
            self.logger.record(f"train/{name}", terms.mean().item())
        self.logger.record("train/loss", last_loss.item())
        steps = self.rollout_buffer.pos
        values, returns = self.rollout_buffer.values[:steps], self.rollout_buffer.returns[:steps]
        self.logger.record(
            "train/explained_variance", explained_variance(values.flatten(), returns.flatten())
        )
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", torch.exp(self.policy.log_std).mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", coefficients.clip_range)
        if coefficients.clip_range_vf is not None:
            self.logger.record("train/clip_range_vf", coefficients.clip_range_vf)


def minibatch_loss(policy: Any, batch: Any, coefficients: Coefficients) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns the `surrogate` of what `policy` makes of a minibatch now."""
    discrete = isinstance(policy.action_space, spaces.Discrete)
    actions = batch.actions.long().squeeze(-1) if discrete else batch.actions
    values, log_prob, entropy = policy.evaluate_actions(batch.observations, actions)
    return surrogate(coefficients, batch, values.squeeze(-1), log_prob, entropy)


def surrogate(
    coefficients: Coefficients, batch: Any, values: Tensor, log_prob: Tensor, entropy: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns the clipped surrogate loss (Schulman et al. 2017, eq. 9) of minibatches (..., B) and its terms."""
    normalize_advantage, clip_range, clip_range_vf, ent_coef, vf_coef = coefficients
    advantages = batch.advantages
    if normalize_advantage and advantages.shape[-1] > 1:  # one sample has no spread
        mean, std = advantages.mean(-1, keepdim=True), advantages.std(-1, keepdim=True)
        advantages = (advantages - mean) / (std + 1e-8)

    log_ratio = log_prob - batch.old_log_prob
    ratio = torch.exp(log_ratio)
    clipped = torch.clamp(ratio, 1 - clip_range, 1 + clip_range)
    policy_loss = -torch.min(advantages * ratio, advantages * clipped).mean(-1)
    if clip_range_vf is not None:  # depends on the scale of the rewards
        values = batch.old_values + torch.clamp(values - batch.old_values, -clip_range_vf, clip_range_vf)
    value_loss = F.mse_loss(batch.returns, values, reduction="none").mean(-1)
    entropy_loss = -torch.mean(-log_prob if entropy is None else entropy, dim=-1)
    loss = policy_loss + ent_coef * entropy_loss + vf_coef * value_loss
    terms = {"policy_gradient_loss": policy_loss, "value_loss": value_loss, "entropy_loss": entropy_loss}
    return loss, {**terms, "log_ratio": log_ratio}


def approx_kl(log_ratio: Tensor) -> Tensor:
    """Estimates the KL divergence (...) of old from new policy with low variance (joschu.net/blog/kl-approx.html)."""
    with torch.no_grad():
        return torch.mean((torch.exp(log_ratio) - 1) - log_ratio, dim=-1)


def _statistics(
    logged: dict[str, list[Tensor]], epochs: int, last: int, coefficients: Coefficients
) -> dict[str, Tensor]:
    """Returns what is logged of an update: "epochs", and by name one number (...) of each minibatch.

    `last` is the number of the last epoch's first minibatch: SB3 logs the KL divergence of the last epoch alone.
    """
    log_ratios = logged.pop("log_ratio")

    def beyond(log_ratio: Tensor) -> Tensor:
        return (torch.abs(torch.exp(log_ratio) - 1) > coefficients.clip_range).float().mean(-1)

    columns = {name: torch.stack(terms) for name, terms in logged.items()}
    columns |= {
        "clip_fraction": _of_each(beyond, log_ratios),
        "approx_kl": _of_each(approx_kl, log_ratios[last:]),
    }
    return {"epochs": torch.tensor(epochs), **columns}


def _of_each(statistic: Callable[[Tensor], Tensor], batches: list[Tensor]) -> Tensor:
    """Returns a statistic (...) of each of M minibatches (..., B), at once where they are of one size: (M, ...)."""
    if len({batch.shape for batch in batches}) == 1:
        return statistic(torch.stack(batches))
    return torch.stack([statistic(batch) for batch in batches])
