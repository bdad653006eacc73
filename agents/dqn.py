"""ContinualDQN: stable-baselines3's DQN with the seams that plasticity methods need, from the replay to the step.

`update` restates SB3's with two calls added (`methods.add_loss`, `methods.after_update`). It is the one text by which
every run learns: plain ones, several computed as one, compiled ones and those on a GPU. Without methods it computes
exactly what SB3 computes, bit for bit; tests/agents/test_parity.py holds it to that.

Shapes: B samples of a minibatch; ... nothing, or S runs that are computed as one (agents/batched).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.nn import functional as F

from isorl.agents.collect import collect_transitions
from isorl.agents.continual import Continual
from isorl.agents.fast import Fast
from isorl.agents.fast_policies import FastDQNPolicy
from isorl.agents.policies import NetworkDQNPolicy
from isorl.agents.replay import CountedReplay, FrameReplay, holds_frames


class ContinualDQN(Continual, Fast, DQN):
    """DQN that lives through task switches.

    Takes stable-baselines3's arguments, `methods` and `switch` (see `Continual`), `exact`, `precision` and `compile`
    (see `Fast`), and the policy "NetworkPolicy", whose network is chosen by
    `policy_kwargs={"network": NetworkSpec(...)}`.
    """

    FAST_POLICIES: ClassVar[dict[type[BasePolicy], type[BasePolicy]]] = {NetworkDQNPolicy: FastDQNPolicy}
    collect = staticmethod(collect_transitions)
    batched_as = "off_policy"

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        **DQN.policy_aliases,
        "NetworkPolicy": NetworkDQNPolicy,
    }

    def _setup_model(self) -> None:
        if (
            self.replay_buffer_class is None
            and isinstance(self.observation_space, spaces.Box)
            and self.n_steps == 1
        ):
            self.replay_buffer_class = CountedReplay
        super()._setup_model()
        # what is loaded may be what a switch has made of it; the warm-up is loaded, too
        if self.learning_starts != getattr(self, "_moved_to", None):
            self.warmup = self.learning_starts
        self._last_loss: Tensor | None = None

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: Any = None,
        reset_num_timesteps: bool = True,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if reset_num_timesteps:  # a switch may have moved it along the steps that are counted anew
            self.learning_starts = self.warmup
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args, **kwargs)

    def _choose_fast_parts(self) -> None:
        super()._choose_fast_parts()
        if self.replay_buffer_class is CountedReplay and holds_frames(self.observation_space):
            self.replay_buffer_class = FrameReplay

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Takes `gradient_steps` steps on minibatches of the replay buffer."""
        self._update_learning_rate(self.policy.optimizer)
        self._last_loss = self.request_batched("learn", (gradient_steps, batch_size))
        if self._last_loss is None:
            with self.rng.installed():
                self._last_loss = self.update(gradient_steps, batch_size)
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def update(self, gradient_steps: int, batch_size: int) -> Tensor:
        """Learns from the replay: the whole update of DQN (Mnih et al. 2015). Returns the mean loss (...)."""
        self.policy.set_training_mode(True)
        losses = []
        for _ in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)  # type: ignore[union-attr]
            method_batch = self.method_batch(batch)
            loss = self.methods.add_loss(self.loss(batch), method_batch)
            losses.append(loss.detach())

            self.policy.optimizer.zero_grad()
            loss.sum().backward()
            self.clip_gradients()
            self.policy.optimizer.step()
            self.methods.after_update(method_batch)
        return torch.stack(losses).mean(0)

    def loss(self, batch: Any) -> Tensor:
        """Returns the loss (...) of a minibatch (..., B) without what methods add."""
        return self.maybe_compile(minibatch_loss)(self.q_net, self.q_net_target, batch, self.gamma)

    def dump_logs(self) -> None:
        """Writes SB3's rows, with the loss read from the device here and not at every update."""
        if self._last_loss is not None:
            self.logger.record("train/loss", self._last_loss.item())
        super().dump_logs()

    def on_switch(self, env: VecEnv) -> None:
        """Does what all agents do, and clears the replay. Methods that redraw weights see to the target network."""
        super().on_switch(env)
        if self.switch.replay == "clear":
            assert self.replay_buffer is not None
            self.replay_buffer.reset()
            # act at random, learn later, as at the start
            self.learning_starts = self._moved_to = self.num_timesteps + self.warmup

    def _on_step(self) -> None:
        run_progress = self._current_progress_remaining
        self._current_progress_remaining = self.progress_remaining(self.switch.exploration)
        super()._on_step()
        self._current_progress_remaining = run_progress


def minibatch_loss(q_net: Any, q_net_target: Any, batch: Any, gamma: float | Tensor) -> Tensor:
    """Returns the `td_loss` of what the networks make of a minibatch now."""
    discounts = gamma if batch.discounts is None else batch.discounts  # gamma**n for n-step replay
    with torch.no_grad():
        next_q = q_net_target(batch.next_observations).max(dim=-1, keepdim=True).values
        target = batch.rewards + (1 - batch.dones) * discounts * next_q
    q = torch.gather(q_net(batch.observations), dim=-1, index=batch.actions.long())
    return td_loss(q[..., 0], target[..., 0])


def td_loss(q: Tensor, target: Tensor) -> Tensor:
    """Returns the Huber loss (...) of the TD error (Mnih et al. 2015) of minibatches (..., B)."""
    return F.smooth_l1_loss(q, target, reduction="none").mean(-1)
