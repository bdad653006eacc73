"""What PPO and DQN share: methods, and what happens at a task switch. A mixin that stands before SB3's class.

The learner is handed a VecEnv and asks it only for its present `visit` (a number, a start and an end in agent
steps); an environment without visits is one endless visit, and then nothing here acts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Protocol

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from isorl.agents.rng import Streams
from isorl.configs.schema import SwitchConfig
from isorl.plasticity.methods import Batch, Learner, Method, Methods
from isorl.plasticity.methods.projection import Projection

LOG = logging.getLogger("isorl")

OPTIONS_NOT_SAVED = ("methods", "learner", "_last_loss", "streams", "pack")
"""They hold the networks themselves; SB3's `save` writes the networks apart."""


class Visit(Protocol):
    """The stay in one task."""

    number: int
    start: int
    end: int


class Continual(BaseAlgorithm):
    """Adds `methods` and `switch` to an algorithm of stable-baselines3.

    Args:
        methods: name -> plasticity method, called in this order.
        switch: what happens to optimizer, replay, exploration, learning rate and normaliser at a switch.
    """

    LABELLED: ClassVar[bool] = False
    """Whether its batches carry the right answers."""

    def __init__(
        self,
        *args: Any,
        methods: Mapping[str, Method] | None = None,
        switch: SwitchConfig | None = None,
        **kwargs: Any,
    ) -> None:
        self.methods = Methods(methods)
        self.streams = Streams()
        self.pack: Any = None
        """The runs with which this one computes; None: it is alone in its process."""
        self.switch = switch or SwitchConfig()
        self.visit_number = 0
        self.visit_start = 0
        self.visit_end: int | None = None
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        ours: Any = self.policy_class
        if self.methods:
            if not hasattr(ours, "networks"):
                raise ValueError("Methods need policy='NetworkPolicy', whose networks they can see.")
            self.policy_kwargs = _as_methods_want(self.methods, ours, self.policy_kwargs)
        super()._setup_model()  # type: ignore[safe-super]
        if hasattr(ours, "networks"):
            self._start_methods(self.policy)

    def _start_methods(self, policy: Any) -> None:
        if policy.network.isometry == "projected":
            self.methods = Methods({**self.methods.by_name, "projection": Projection()})
        generator = torch.Generator().manual_seed(self.seed if self.seed is not None else 0)
        self.learner = Learner(
            policy.networks(),
            policy.optimizer,
            policy,
            policy.fresh,
            policy.targets(),
            generator,
            self.LABELLED,
        )
        self.methods.start(self.learner)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        LOG.info("methods, in the order in which they act: %s", self.methods)
        return super()._setup_learn(*args, **kwargs)

    def _seen(self, batch: Any) -> Batch:
        """What methods see of a minibatch of SB3's."""
        policy: Any = self.policy
        return Batch(lambda: policy.inputs(batch.observations))

    def collect_rollouts(self, env: VecEnv, *args: Any, **kwargs: Any) -> Any:
        """SB3's, after acting on a switch that has happened since the last update."""
        visit: Visit | None = getattr(env.unwrapped, "visit", None)
        if visit is not None:
            if visit.number != self.visit_number:
                self.on_switch(env)
            self.visit_number, self.visit_start, self.visit_end = visit.number, visit.start, visit.end
        if "learning_starts" in kwargs:  # SB3 read it before the switch, which may have moved it
            kwargs["learning_starts"] = self.learning_starts  # type: ignore[attr-defined]
        return self._collect(env, *args, **kwargs)

    def _collect(self, env: VecEnv, *args: Any, **kwargs: Any) -> Any:
        return super().collect_rollouts(env, *args, **kwargs)  # type: ignore[misc]

    def meet(self, what: str, argument: Any) -> Any:
        """What the pack computes for all of its runs at once; None where there is none, or it cannot."""
        return None if self.pack is None else self.pack.meet(self, what, argument)

    def on_switch(self, env: VecEnv) -> None:
        """The switch policy, then the methods. Called once per switch, before the first rollout of the new task."""
        if self.pack is not None:
            self.pack.dissolve()
        assert self.ep_info_buffer is not None
        self.ep_info_buffer.clear()  # SB3's running means belong to the old task
        if self.switch.optimizer == "reset":
            self.policy.optimizer.state.clear()
        normalizer: Any = next(_normalizers(env), None)
        if self.switch.normalizer == "reset" and normalizer is not None:
            normalizer.obs_rms = RunningMeanStd(shape=normalizer.observation_space.shape)
            normalizer.ret_rms = RunningMeanStd(shape=())
        self.methods.on_switch()

    def progress_remaining(self, horizon: str) -> float:
        """1 at the start to 0 at the end of the horizon: the "run", or the present "visit"."""
        if horizon == "run" or self.visit_end is None:
            return self._current_progress_remaining
        length = self.visit_end - self.visit_start
        return min(max(1.0 - (self.num_timesteps - self.visit_start) / length, 0.0), 1.0)

    def _update_learning_rate(self, optimizers: Any) -> None:
        run_progress = self._current_progress_remaining
        self._current_progress_remaining = self.progress_remaining(self.switch.learning_rate)
        super()._update_learning_rate(optimizers)
        self._current_progress_remaining = run_progress

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *OPTIONS_NOT_SAVED]


def _as_methods_want(methods: Methods, policy: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The policy's arguments with the network and the optimizer of the methods."""
    cls = given.get("optimizer_class", torch.optim.Adam)
    options = dict(given.get("optimizer_kwargs") or {})
    if cls is torch.optim.Adam:
        options.setdefault("eps", policy.ADAM_EPS)  # stable-baselines3 gives it to plain Adam alone
    cls, options = methods.optimizer(cls, options)
    network = methods.network(given.get("network") or policy.NETWORK)
    return {**given, "network": network, "optimizer_class": cls, "optimizer_kwargs": options}


def _normalizers(env: VecEnv) -> Iterator[VecNormalize]:
    while env is not env.unwrapped:
        if isinstance(env, VecNormalize):
            yield env
        env = env.venv  # type: ignore[attr-defined]
