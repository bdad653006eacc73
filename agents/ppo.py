"""ContinualPPO: stable-baselines3's PPO with the seams that plasticity methods need.

`train` restates SB3's update with two calls added (`methods.add_loss`, `methods.after_update`) and gathers the
logged numbers as tensors, so a GPU is not waited for in every minibatch. Without methods it computes exactly what
SB3 computes, bit for bit; tests/test_parity.py holds it to that.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, ClassVar, NamedTuple

import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.nn import functional as F

from isorl.agents.collect import collect_rollout
from isorl.agents.continual import Continual
from isorl.agents.fast import Fast
from isorl.agents.fast_policies import FastActorCritic
from isorl.agents.policies import NetworkActorCritic
from isorl.agents.rollout import RolloutTensors
from isorl.plasticity.methods import Batch


class ContinualPPO(Continual, Fast, PPO):
    """PPO that lives through task switches.

    Takes stable-baselines3's arguments, `methods` and `switch` (see `Continual`), `exact`, `precision` and `compile`
    (see `Fast`), and the policy "NetworkPolicy", whose network is chosen by
    `policy_kwargs={"network": NetworkSpec(...)}`.
    """

    FAST_POLICIES: ClassVar[dict[type[BasePolicy], type[BasePolicy]]] = {NetworkActorCritic: FastActorCritic}

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        **PPO.policy_aliases,
        "NetworkPolicy": NetworkActorCritic,
    }

    def _choose_fast_parts(self) -> None:
        super()._choose_fast_parts()
        self.rollout_buffer_class = RolloutTensors

    def _collect(self, env: VecEnv, *args: Any, **kwargs: Any) -> bool:
        if self.exact:
            return super()._collect(env, *args, **kwargs)
        return collect_rollout(self, env, *args, **kwargs)

    def train(self) -> None:
        """Updates the policy `n_epochs` times over the collected rollout."""
        self._update_learning_rate(self.policy.optimizer)
        clip_range = self.clip_range(self._current_progress_remaining)  # type: ignore[operator]
        clip_range_vf = self.clip_range_vf and self.clip_range_vf(self._current_progress_remaining)  # type: ignore
        logged = self.meet("train", (clip_range, clip_range_vf))
        if logged is None:
            with self.streams.installed():
                logged = self._train(clip_range, clip_range_vf)
        else:
            self._n_updates += self.n_epochs
        self._log(logged, clip_range, clip_range_vf)

    def _train(self, clip_range: float, clip_range_vf: float | None) -> dict[str, Tensor]:
        """The update; gives back what it logs: name -> (minibatches,)."""
        self.policy.set_training_mode(True)
        logged: dict[str, list[Tensor]] = defaultdict(list)
        within_target_kl = True
        for _ in range(self.n_epochs):
            logged["approx_kl"].clear()  # SB3 logs the last epoch's
            for batch in self.rollout_buffer.get(self.batch_size):
                seen = self._seen(batch)
                loss, terms = self._loss(batch, seen, clip_range, clip_range_vf)
                for name, term in terms.items():
                    logged[name].append(term)
                if self.target_kl is not None and terms["approx_kl"] > 1.5 * self.target_kl:
                    within_target_kl = False
                    break

                self.policy.optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
                self.policy.optimizer.step()
                self.methods.after_update(seen)
            self._n_updates += 1
            if not within_target_kl:
                break
        return {name: torch.stack(terms) for name, terms in logged.items()}

    def _loss(
        self, batch: Any, seen: Batch, clip_range: float, clip_range_vf: float | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a minibatch with what methods add, and its terms for the log."""
        weights = Weights(self.normalize_advantage, self.ent_coef, self.vf_coef)
        discrete = isinstance(self.action_space, spaces.Discrete)
        loss, terms = self.computed(minibatch_loss)(
            self.policy, batch, discrete, weights, clip_range, clip_range_vf
        )
        loss = self.methods.add_loss(loss, seen)
        return loss, {**terms, "loss": loss.detach()}

    def _log(self, logged: dict[str, Tensor], clip_range: float, clip_range_vf: float | None) -> None:
        """SB3's keys: means over the update, the last loss."""
        last_loss = logged.pop("loss")[-1]
        for name, terms in logged.items():
            self.logger.record(f"train/{name}", terms.mean().item())
        self.logger.record("train/loss", last_loss.item())
        values, returns = self.rollout_buffer.values.flatten(), self.rollout_buffer.returns.flatten()
        self.logger.record("train/explained_variance", explained_variance(values, returns))
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", torch.exp(self.policy.log_std).mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", clip_range)
        if clip_range_vf is not None:
            self.logger.record("train/clip_range_vf", clip_range_vf)


class Weights(NamedTuple):
    """Of the parts of the loss."""

    normalize_advantage: bool
    ent_coef: float
    vf_coef: float


def minibatch_loss(
    policy: Any, batch: Any, discrete: bool, weights: Weights, clip_range: float, clip_range_vf: float | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """`surrogate` of what `policy` makes of a minibatch now."""
    actions = batch.actions.long().flatten() if discrete else batch.actions
    values, log_prob, entropy = policy.evaluate_actions(batch.observations, actions)
    return surrogate(weights, batch, values.flatten(), log_prob, entropy, clip_range, clip_range_vf)


def surrogate(
    weights: Weights,
    batch: Any,
    values: Tensor,
    log_prob: Tensor,
    entropy: Tensor | None,
    clip_range: float,
    clip_range_vf: float | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped surrogate loss (Schulman et al. 2017, eq. 9) of minibatches (..., B), and its terms: (...) each."""
    advantages = batch.advantages
    if weights.normalize_advantage and advantages.shape[-1] > 1:  # one sample has no spread
        mean, std = advantages.mean(-1, keepdim=True), advantages.std(-1, keepdim=True)
        advantages = (advantages - mean) / (std + 1e-8)

    ratio = torch.exp(log_prob - batch.old_log_prob)
    clipped = torch.clamp(ratio, 1 - clip_range, 1 + clip_range)
    policy_loss = -torch.min(advantages * ratio, advantages * clipped).mean(-1)
    if clip_range_vf is not None:  # depends on the scale of the rewards
        values = batch.old_values + torch.clamp(values - batch.old_values, -clip_range_vf, clip_range_vf)
    value_loss = F.mse_loss(batch.returns, values, reduction="none").mean(-1)
    entropy_loss = -torch.mean(-log_prob if entropy is None else entropy, dim=-1)
    loss = policy_loss + weights.ent_coef * entropy_loss + weights.vf_coef * value_loss

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
