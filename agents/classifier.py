"""ContinualClassifier: learns a stream of labelled inputs by cross entropy, with the seams that methods need.

A stream (envs/stream.py) is a vector environment: the agent answers a batch, one input per copy, and is then shown
the right answers, `env.labels`. An agent step is one sample. It has stable-baselines3's interface, so sequences,
switches, methods, diagnostics, callbacks, save, load and predict are those of PPO and DQN.

Shapes: B samples of a batch; ... nothing, or S runs that are computed as one (agents/batched).
"""

from __future__ import annotations

import sys
import time
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import safe_mean
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from isorl.agents.continual import Continual
from isorl.agents.policies import NetworkClassifier
from isorl.plasticity.methods import Batch
from isorl.plasticity.networks import cross_entropy, masked


class Answered(NamedTuple):
    """The batch that was just answered."""

    observations: Tensor  # (B, ...)
    labels: Tensor  # (B,) int64
    allowed: Tensor | None  # (C,) bool: the classes of the task, where its head is masked
    logits: Tensor | None = None  # (B, C) with their graph, until the update has used it up


class Classifier(BaseAlgorithm):
    """stable-baselines3's loop around a learner of labels: answer a batch, learn from it, tell the callback.

    Args:
        policy: "NetworkPolicy" or a class with its interface.
        env: a VecEnv with `labels` and `allowed`, such as SwitchingVecEnv on streams; its copies make the batch.
        learning_rate: a number, or a function of the remaining progress.
        max_grad_norm: of gradient clipping; None: no clipping.
        policy_kwargs: `network`, `optimizer_class`, `optimizer_kwargs`.
        tensorboard_log: as in stable-baselines3, and so are the rest.
        verbose: ditto.
        seed: ditto.
        device: ditto.
        _init_setup_model: ditto.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"NetworkPolicy": NetworkClassifier}

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 1e-3,
        max_grad_norm: float | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        super().__init__(
            policy,
            env,
            learning_rate,
            policy_kwargs=policy_kwargs,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
            supported_action_spaces=(spaces.Discrete,),
        )
        self.max_grad_norm = max_grad_norm
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.policy: Any = self.policy_class(
            self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
        ).to(self.device)
        self._answered: Answered | None = None
        self._last_loss: Tensor | None = None

    @property
    def batch_size(self) -> int:
        """The samples of an update."""
        return self.n_envs

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 100,
        tb_log_name: str = "Classifier",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Any:
        """Learns from `total_timesteps` samples; `log_interval` counts batches."""
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        callback.on_training_start(locals(), globals())
        assert self.env is not None
        while self.num_timesteps < total_timesteps and self.collect_rollouts(self.env, callback):
            self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
            if log_interval and self._n_updates % log_interval == 0:
                self.dump_logs()
        callback.on_training_end()
        return self

    def collect_rollouts(self, env: VecEnv, callback: BaseCallback) -> bool:
        """Answers a batch, is shown the right answers and learns; False where the callback wants to stop."""
        callback.on_rollout_start()
        if not self.policy.training:
            self.policy.set_training_mode(True)
        observations = torch.as_tensor(self._last_obs, device=self.device)
        self.policy.restrict(getattr(env.unwrapped, "allowed", None))
        allowed = self.policy.allowed  # of these inputs: the step may switch the task
        actions, logits = self.answer(observations, allowed)
        new_obs, rewards, dones, infos = env.step(actions)
        self._last_obs = new_obs  # type: ignore[assignment]
        labels = torch.as_tensor(env.unwrapped.labels, device=self.device)  # type: ignore[attr-defined]
        self._answered = Answered(observations, labels, allowed, logits)
        self.num_timesteps += env.num_envs
        self.train()
        if dones.any():
            self._update_info_buffer(infos, dones)
        callback.update_locals(locals())
        keep_on = callback.on_step()
        callback.on_rollout_end()
        return keep_on

    def answer(self, observations: Tensor, allowed: Tensor | None) -> tuple[np.ndarray, Tensor | None]:
        """Returns the likeliest classes (B,) for observations (B, ...), and their logits (B, C) with the graph."""
        logits = self.policy(observations)
        return masked(logits.detach(), allowed).argmax(dim=1).cpu().numpy(), logits

    def train(self) -> None:
        """Makes one update on the batch that was just answered."""
        raise NotImplementedError

    def dump_logs(self) -> None:
        """Writes a row of stable-baselines3's keys."""
        assert self.ep_info_buffer is not None
        elapsed = max((time.time_ns() - self.start_time) / 1e9, sys.float_info.epsilon)
        if self.ep_info_buffer:
            self.logger.record("rollout/ep_rew_mean", safe_mean([info["r"] for info in self.ep_info_buffer]))
        if self._last_loss is not None:
            self.logger.record("train/loss", self._last_loss.item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / elapsed))
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(step=self.num_timesteps)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_answered", "_last_loss"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []


class ContinualClassifier(Continual, Classifier):
    """A classifier that lives through task switches.

    Takes the arguments of `Classifier`, `methods` and `switch` (see `Continual`).

    Args:
        exact: True computes bit for bit what a plain loop in torch computes. False computes it fast, small networks in
            numpy, several runs of a process as one; the same up to rounding.
    """

    LABELLED = True
    batched_as = "labels"

    def __init__(self, *args: Any, exact: bool = True, **kwargs: Any) -> None:
        self.exact = exact
        super().__init__(*args, **kwargs)

    def answer(self, observations: Tensor, allowed: Tensor | None) -> tuple[np.ndarray, Tensor | None]:
        """Does what `Classifier.answer` does, with the other runs of the process where they compute as one."""
        classes = self.request_batched("act", (observations, allowed))
        return super().answer(observations, allowed) if classes is None else (classes, None)

    def train(self) -> None:
        """Takes one step down the cross entropy of the batch that was just answered."""
        assert self._answered is not None, "learn() answers a batch before it learns from it"
        self._update_learning_rate(self.policy.optimizer)
        self._last_loss = self.request_batched("learn", self._answered)
        if self._last_loss is None:
            self._last_loss = self.update(self._answered)
        self._n_updates += 1
        self._answered = self._answered._replace(logits=None)  # the weights have moved

    def update(self, batch: Answered) -> Tensor:
        """Learns from a batch (..., B): the whole update. Returns the loss (...)."""
        method_batch = self.method_batch(batch)
        loss = self.methods.add_loss(self.loss(batch), method_batch)

        self.policy.optimizer.zero_grad()
        loss.sum().backward()
        self.clip_gradients()
        self.policy.optimizer.step()
        self.methods.after_update(method_batch)
        return loss.detach()

    def loss(self, batch: Answered) -> Tensor:
        """Returns the mean of -log softmax(f(x))_y over the batch; a masked head leaves the other classes out."""
        logits = self.policy(batch.observations) if batch.logits is None else batch.logits  # (B, C)
        return cross_entropy(logits, batch.labels, batch.allowed)

    def method_batch(self, batch: Answered) -> Batch:
        """Returns what methods see of a batch."""
        return Batch(lambda: self.policy.inputs(batch.observations), batch.labels, batch.allowed)
