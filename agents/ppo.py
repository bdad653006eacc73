"""ContinualPPO: stable-baselines3's PPO with the seams that plasticity methods need, from the rollout to the step.

`train` hands the rollout to `update`, which restates SB3's with two calls added (`methods.add_loss`,
`methods.after_update`) and gathers the logged numbers as tensors, so a GPU is not waited for in every minibatch. It is
the one text by which every run learns: plain ones, several computed as one, compiled ones and those on a GPU. Without
methods it computes exactly what SB3 computes, bit for bit; tests/agents/test_parity.py holds it to that.

Shapes: B samples of a minibatch; ... nothing, or S runs that are computed as one (agents/batched).
"""

from __future__ import annotations

from collections import defaultdict
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


def _stacked(logged: dict[str, list[Tensor]], epochs: int) -> dict[str, Tensor]:
    return {"epochs": torch.tensor(epochs), **{name: torch.stack(terms) for name, terms in logged.items()}}


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
        progress = self._current_progress_remaining
        clip_range_vf = self.clip_range_vf and self.clip_range_vf(progress)  # type: ignore[operator]
        coefficients = Coefficients(
            self.normalize_advantage,
            self.clip_range(progress),
            clip_range_vf,
            self.ent_coef,
            self.vf_coef,  # type: ignore[operator]
        )
        logged = self.request_batched("learn", coefficients)
        if logged is None:
            with self.rng.installed():
                logged = self.update(coefficients)
        self._n_updates += int(logged.pop("epochs"))
        self._log(logged, coefficients)

    def update(self, coefficients: Coefficients) -> dict[str, Tensor]:
        """Learns from the rollout: the whole update of PPO (Schulman et al. 2017).

        Returns:
            What is logged: "epochs" made, and by name the terms of every minibatch's loss (minibatches, ...).
        """
        self.policy.set_training_mode(True)
        logged: dict[str, list[Tensor]] = defaultdict(list)
        for epoch in range(1, self.n_epochs + 1):
            logged["approx_kl"].clear()  # SB3 logs the last epoch's
            for batch in self.rollout_buffer.get(self.batch_size):
                method_batch = self.method_batch(batch)
                loss, terms = self.loss(batch, coefficients)
                loss = self.methods.add_loss(loss, method_batch)
                for name, term in {**terms, "loss": loss.detach()}.items():
                    logged[name].append(term)
                if self.target_kl is not None and terms["approx_kl"] > 1.5 * self.target_kl:
                    return _stacked(logged, epoch)
                self.policy.optimizer.zero_grad()
                loss.sum().backward()
                self.clip_gradients()
                self.policy.optimizer.step()
                self.methods.after_update(method_batch)
        return _stacked(logged, self.n_epochs)

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

    ratio = torch.exp(log_prob - batch.old_log_prob)
    clipped = torch.clamp(ratio, 1 - clip_range, 1 + clip_range)
    policy_loss = -torch.min(advantages * ratio, advantages * clipped).mean(-1)
    if clip_range_vf is not None:  # depends on the scale of the rewards
        values = batch.old_values + torch.clamp(values - batch.old_values, -clip_range_vf, clip_range_vf)
    value_loss = F.mse_loss(batch.returns, values, reduction="none").mean(-1)
    entropy_loss = -torch.mean(-log_prob if entropy is None else entropy, dim=-1)
    loss = policy_loss + ent_coef * entropy_loss + vf_coef * value_loss

    with torch.no_grad():
        log_ratio = log_prob - batch.old_log_prob
        terms = {
            "policy_gradient_loss": policy_loss.detach(),
            "value_loss": value_loss.detach(),
            "entropy_loss": entropy_loss.detach(),
            "clip_fraction": torch.mean((torch.abs(ratio - 1) > clip_range).float(), dim=-1),
            # the low-variance estimator of http://joschu.net/blog/kl-approx.html
            "approx_kl": torch.mean((torch.exp(log_ratio) - 1) - log_ratio, dim=-1),
        }
    return loss, terms
