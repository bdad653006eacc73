"""What all agents share: methods, and what happens at a task switch. A mixin that stands before SB3's class.

The learner is handed a VecEnv and asks it only for its present `visit` (a number, a start and an end in agent
steps); an environment without visits is one endless visit, and then nothing here acts.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Protocol

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv

from isorl.agents.batched import BatchedRuns, Engine
from isorl.agents.collect import can_collect
from isorl.agents.rng import RngState
from isorl.configs.schema import SwitchConfig
from isorl.plasticity.methods import Batch, Learner, Method, Methods
from isorl.plasticity.methods.projection import Projection

LOG = logging.getLogger("isorl")

OPTIONS_NOT_SAVED = ("methods", "learner", "_last_loss", "rng", "runs", "engine")
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
    batched_as: ClassVar[str | None] = None
    """How several agents of this class are computed as one: a name in LEARNERS; None: each for itself."""
    exact, precision, compile = False, "float32", False
    """Of agents without these options; see `Fast`."""
    collect: Any = None
    """The function of collect.py that collects experience: (agent, env, ...); None: the algorithm's own method."""
    max_grad_norm: Any

    def __init__(
        self,
        *args: Any,
        methods: Mapping[str, Method] | None = None,
        switch: SwitchConfig | None = None,
        **kwargs: Any,
    ) -> None:
        self.methods = Methods(methods)
        self.method_names: list[str] = []
        self.rng = RngState()
        self.runs: BatchedRuns | None = None
        """The runs of the process, while this one is computed with them, or as they are."""
        self.engine = Engine("torch", 1, "it has not begun to learn")
        """What computes the updates, once `learn` has begun."""
        self.switch = switch or SwitchConfig()
        self.visit_number = 0
        self.visit_start = 0
        self.visit_end: int | None = None
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        ours: Any = self.policy_class
        self._take_methods()
        if self.methods:
            if not hasattr(ours, "networks"):
                raise ValueError("Methods need policy='NetworkPolicy', whose networks they can see.")
            self.policy_kwargs = _as_methods_want(self.methods, ours, self.policy_kwargs)
        super()._setup_model()  # type: ignore[safe-super]
        if hasattr(ours, "networks"):
            self._start_methods(self.policy)

    def _take_methods(self) -> None:
        """Takes those that `load(..., methods=...)` was given; a file names the agent's own and does not hold them."""
        given: Any = self.methods
        self.methods = given if isinstance(given, Methods) else Methods(given)
        if self.method_names and not self.methods:
            warnings.warn(
                f"This agent was saved with methods ({', '.join(self.method_names)}), which a file does not hold: it "
                "goes on without them. Give them to `load` as `methods=`, or resume the run of which it is a part.",
                UserWarning,
                stacklevel=4,
            )
        self.method_names = list(self.methods.by_name)

    def _start_methods(self, policy: Any) -> None:
        if policy.network.is_projected:
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
            self.methods.by_name,
        )
        self.methods.start(self.learner)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        LOG.info("methods, in the order in which they act: %s", self.methods)
        return super()._setup_learn(*args, **kwargs)

    def method_batch(self, batch: Any) -> Batch:
        """Returns what methods see of a minibatch."""
        policy: Any = self.policy
        return Batch(lambda: policy.inputs(batch.observations))

    def collect_rollouts(self, env: VecEnv, *args: Any, **kwargs: Any) -> Any:
        """Collects experience after acting on a switch that has happened since the last update."""
        visit: Visit | None = getattr(env.unwrapped, "visit", None)
        if visit is not None:
            if visit.number != self.visit_number:
                self.on_switch(env)
            # the environment counts on where `learn` counts anew
            before = self.num_timesteps - env.unwrapped.agent_steps  # type: ignore[attr-defined]
            self.visit_number = visit.number
            self.visit_start, self.visit_end = visit.start + before, visit.end + before
        if "learning_starts" in kwargs:  # SB3 read it before the switch, which may have moved it
            kwargs["learning_starts"] = self.learning_starts  # type: ignore[attr-defined]
        if self.collect is not None and can_collect(self):
            return self.collect(self, env, *args, **kwargs)
        return super().collect_rollouts(env, *args, **kwargs)  # type: ignore[misc]

    def learn(self, *args: Any, **kwargs: Any) -> Any:
        """Does what stable-baselines3's does, with the other runs of the process where they compute as one."""
        runs = BatchedRuns.current or BatchedRuns()
        with runs.member(self):
            return super().learn(*args, **kwargs)  # type: ignore[safe-super]

    def request_batched(self, phase: str, argument: Any) -> Any:
        """Returns what is computed for all runs of the process at once; None where this one computes for itself."""
        return None if self.runs is None else self.runs.request(self, phase, argument)

    @property
    def num_runs_in_process(self) -> int:
        """How many runs the time of this process is shared by."""
        return 1 if BatchedRuns.current is None else BatchedRuns.current.size

    def clip_gradients(self) -> None:
        """Scales the gradient down to `max_grad_norm`, where it has one."""
        if self.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)

    def on_switch(self, env: VecEnv) -> None:
        """Applies the switch options, then the methods: once per switch, before the first rollout on the new task."""
        if self.runs is not None:
            self.runs.unstack()
        assert self.ep_info_buffer is not None
        assert self.ep_success_buffer is not None
        self.ep_info_buffer.clear()  # SB3's running means belong to the old task
        self.ep_success_buffer.clear()
        if self.switch.optimizer == "reset":
            self.policy.optimizer.state.clear()
        normalizer: Any = self.get_vec_normalize_env()
        if self.switch.normalizer == "reset" and normalizer is not None:
            normalizer.obs_rms = RunningMeanStd(shape=normalizer.observation_space.shape)
            normalizer.ret_rms = RunningMeanStd(shape=())
        with self.drawing_as_if_alone():
            self.methods.on_switch()

    def drawing_as_if_alone(self) -> AbstractContextManager[None]:
        """Lets methods of others, which may draw from the process's generators, draw from this run's inside."""
        return self.rng.installed() if self.methods.may_draw else nullcontext()

    def progress_remaining(self, horizon: str) -> float:
        """Returns what is left, from 1 to 0, of the horizon: of the "run", or of the present "visit"."""
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
