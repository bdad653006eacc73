"""The options of each agent and optimizer as dataclasses, and the factory that reads them from a configuration."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

import isorl.agents
from isorl.agents import Agent, ContinualClassifier, ContinualDQN, ContinualPPO
from isorl.configs import RunConfig, UserError, nearest, typed
from isorl.configs.schema import SwitchConfig
from isorl.envs.sequence import Sequence
from isorl.plasticity import AdamO, NetworkSpec
from isorl.plasticity.diagnostics import METRICS
from isorl.plasticity.methods import METHODS, Method
from isorl.plasticity.registry import Registry, import_modules


def _positive(options: Any, *names: str) -> None:
    for name in names:
        value = getattr(options, name)
        if value is not None and not value > 0:  # NaN neither
            raise UserError(f"'agent.{name}' is {value}; it must be above 0.")


def _not_negative(options: Any, *names: str) -> None:
    for name in names:
        value = getattr(options, name)
        if value is not None and not value >= 0:
            raise UserError(f"'agent.{name}' is {value}; it must be at least 0.")


def _fraction(options: Any, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(options, name) <= 1:
            raise UserError(f"'agent.{name}' is {getattr(options, name)}; it must lie between 0 and 1.")


@dataclass(frozen=True)
class PPOOptions:
    """Parameters of stable-baselines3's PPO, the number of environment copies, and how it is computed."""

    name: str = "ppo"
    n_envs: int = 8
    exact: bool = False
    precision: str = "float32"
    compile: bool = False
    learning_rate: float = 3e-4
    learning_rate_final: float | None = None
    n_steps: int = 256
    batch_size: int = 64
    n_epochs: int = 10
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    clip_range_vf: float | None = None
    normalize_advantage: bool = True
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    target_kl: float | None = None

    def __post_init__(self) -> None:
        _positive(
            self,
            "n_envs",
            "learning_rate",
            "n_steps",
            "batch_size",
            "n_epochs",
            "clip_range",
            "max_grad_norm",
        )
        _positive(self, "clip_range_vf", "target_kl")
        _not_negative(self, "learning_rate_final")
        _fraction(self, "gamma", "gae_lambda")
        if self.n_envs * self.n_steps < self.batch_size:
            raise UserError(
                f"A rollout has agent.n_envs * agent.n_steps = {self.n_envs * self.n_steps} samples, fewer than "
                f"'agent.batch_size' = {self.batch_size}."
            )
        if self.normalize_advantage and (
            self.batch_size == 1 or (self.n_envs * self.n_steps) % self.batch_size == 1
        ):
            raise UserError(
                "A minibatch of one sample has no spread to normalise advantages by: change batch_size."
            )

    def planned_updates(self, visits: Iterable[int], switch: SwitchConfig) -> int:
        """Returns the optimizer steps over visits of so many agent steps each; the end of one cuts the rollout."""
        rollout = self.n_envs * self.n_steps
        whole = math.ceil(rollout / self.batch_size)
        return self.n_epochs * sum(
            visit // rollout * whole + math.ceil(visit % rollout / self.batch_size) for visit in visits
        )


@dataclass(frozen=True)
class DQNOptions:
    """Parameters of stable-baselines3's DQN, the number of environment copies, and how it is computed."""

    name: str = "dqn"
    n_envs: int = 1
    exact: bool = False
    precision: str = "float32"
    compile: bool = False
    learning_rate: float = 1e-4
    learning_rate_final: float | None = None
    buffer_size: int = 100_000
    learning_starts: int = 1_000
    batch_size: int = 32
    tau: float = 1.0
    gamma: float = 0.99
    train_freq: int = 4
    gradient_steps: int = 1
    target_update_interval: int = 1_000
    exploration_fraction: float = 0.1
    exploration_initial_eps: float = 1.0
    exploration_final_eps: float = 0.05
    max_grad_norm: float = 10.0

    def __post_init__(self) -> None:
        _positive(
            self,
            "n_envs",
            "learning_rate",
            "buffer_size",
            "batch_size",
            "tau",
            "train_freq",
            "gradient_steps",
        )
        _positive(self, "target_update_interval", "max_grad_norm")
        _fraction(
            self, "tau", "gamma", "exploration_fraction", "exploration_initial_eps", "exploration_final_eps"
        )
        _not_negative(self, "learning_starts", "learning_rate_final")

    def planned_updates(self, visits: Iterable[int], switch: SwitchConfig) -> int:
        """Returns the optimizer steps over visits of so many agent steps each; a cleared replay is filled first."""
        collected, updates, warmup = self.n_envs * self.train_freq, 0, self.learning_starts
        for visit in visits:
            if visit > warmup:
                updates += (math.ceil(visit / collected) - warmup // collected) * self.gradient_steps
            if switch.replay == "keep":
                warmup = max(warmup - visit, 0)
        return updates


@dataclass(frozen=True)
class ClassifierOptions:
    """Parameters of the classifier; its batch is one sample from each environment copy."""

    name: str = "classifier"
    exact: bool = False
    batch_size: int = 64
    learning_rate: float = 1e-3
    learning_rate_final: float | None = None
    max_grad_norm: float | None = None

    def __post_init__(self) -> None:
        _positive(self, "batch_size", "learning_rate", "max_grad_norm")
        _not_negative(self, "learning_rate_final")

    @property
    def n_envs(self) -> int:
        """The environment copies, of which each gives one sample."""
        return self.batch_size

    def planned_updates(self, visits: Iterable[int], switch: SwitchConfig) -> int:
        """Returns the optimizer steps over visits of so many samples each."""
        return sum(math.ceil(visit / self.batch_size) for visit in visits)


Options = PPOOptions | DQNOptions | ClassifierOptions


@dataclass(frozen=True)
class AdamOptions:
    """Adam (Kingma and Ba 2015)."""

    name: str = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float | None = None
    fused: bool | None = None

    def __post_init__(self) -> None:
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(
                f"'optimizer.betas' is {list(self.betas)}; "
                "it must be two numbers from 0 to below 1, such as [0.9,0.999]."
            )


@dataclass(frozen=True)
class AdamWOptions(AdamOptions):
    """AdamW (Loshchilov and Hutter 2019)."""

    name: str = "adamw"
    weight_decay: float = 0.01


@dataclass(frozen=True)
class AdamOOptions(AdamOptions):
    """AdamO (Rosseau et al. 2026)."""

    name: str = "adamo"
    weight_decay: float = 0.0
    iso_lambda: float | None = None
    iso_half_life: float | None = None
    """The strength as updates that halve a deviation from isometry; below 1: as a share of a visit's updates."""
    iso_lr: float | None = None
    iso_target: float | None = None
    iso_every: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iso_lambda is not None and self.iso_half_life is not None:
            raise UserError(
                f"'optimizer.iso_lambda' ({self.iso_lambda:g}) and 'optimizer.iso_half_life' ({self.iso_half_life:g}) "
                "both give the strength of the isometry step. Leave one out."
            )
        if self.iso_half_life is not None and not 0 < self.iso_half_life < math.inf:
            raise UserError(
                f"'optimizer.iso_half_life' is {self.iso_half_life:g}; it must be a number of updates, or between 0 "
                "and 1 a share of a visit. iso_lambda=0 turns the step off."
            )


AGENTS: Registry[tuple[type[Agent], type]] = Registry("agent")
"""Name on the command line -> class, and the dataclass of its options."""
AGENTS.register("ppo")((ContinualPPO, PPOOptions))
AGENTS.register("dqn")((ContinualDQN, DQNOptions))
AGENTS.register("classifier")((ContinualClassifier, ClassifierOptions))

OPTIMIZERS: Registry[tuple[type[torch.optim.Optimizer], type[AdamOptions]]] = Registry("optimizer")
"""Name on the command line -> class, and the dataclass of its options."""
OPTIMIZERS.register("adam")((torch.optim.Adam, AdamOptions))
OPTIMIZERS.register("adamw")((torch.optim.AdamW, AdamWOptions))
OPTIMIZERS.register("adamo")((AdamO, AdamOOptions))


def _named(known: Mapping[str, Any], options: dict[str, Any], kind: str) -> Any:
    name = options.get("name")
    if not isinstance(name, str) or name not in known:
        raise UserError(f"There is no {kind} '{name}'. {nearest(name, known)}")
    return known[name]


def agent_options(config: RunConfig) -> Options:
    """Returns the checked options of the agent."""
    return typed(_named(AGENTS, config.agent, "agent")[1], config.agent, "agent")


def network_spec(config: RunConfig) -> NetworkSpec:
    """Returns the checked network."""
    return typed(NetworkSpec, config.network, "network")


def make_methods(config: RunConfig) -> dict[str, Method]:
    """Makes the methods, in the order in which they were given."""
    methods = {}
    for name, options in config.method.items():
        methods[name] = typed(METHODS[name], options or {}, f"method.{name}")
    return methods


def check_metrics(config: RunConfig) -> None:
    """Raises ValueError for a metric that there is not."""
    for name in config.diagnostics.metrics or ():
        METRICS[name]


def optimizer_arguments(
    config: RunConfig, network: NetworkSpec
) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """Returns the optimizer's class and its keyword arguments apart from the learning rate."""
    agent = _named(AGENTS, config.agent, "agent")[0]
    optimizer, schema = _named(OPTIMIZERS, config.optimizer, "optimizer")
    options = typed(schema, config.optimizer, "optimizer")
    kwargs = asdict(options)
    del kwargs["name"]
    if options.eps is None:
        kwargs["eps"] = agent.policy_aliases["NetworkPolicy"].ADAM_EPS  # stable-baselines3's own for each
    if options.fused is None and issubclass(agent, ContinualClassifier):  # the others decide for themselves
        kwargs["fused"] = not config.agent.get("exact", False)
    if isinstance(options, AdamOOptions):
        kwargs["decoupled_weight_decay"] = True
        if options.iso_target is None:
            kwargs["iso_target"] = (network.orthogonal_gain or math.sqrt(2)) ** 2
        if options.iso_half_life is not None and options.iso_half_life < 1:
            sequence = Sequence.from_config(config.sequence, config.seed, agent_options(config).n_envs)
            of_a_visit = planned_updates(config, sequence) / len(sequence.visits)
            kwargs["iso_half_life"] = options.iso_half_life * of_a_visit
    return optimizer, kwargs


def planned_updates(config: RunConfig, sequence: Sequence) -> int:
    """Returns the optimizer steps of a run of `config` on its `sequence`, if no visit ends early."""
    visits = [visit.agent_steps for visit in sequence.visits]
    return agent_options(config).planned_updates(visits, config.switch)


def make_agent(config: RunConfig, env: VecEnv) -> Agent:
    """Makes the agent that `config` describes, on `env`.

    Raises:
        UserError: options that do not exist or do not fit, DQN with continuous actions, CUDA where there is none.
    """
    options = agent_options(config)
    network = network_spec(config)
    optimizer, optimizer_kwargs = optimizer_arguments(config, network)
    if isinstance(options, DQNOptions) and not isinstance(env.action_space, spaces.Discrete):
        raise UserError(
            f"DQN chooses among discrete actions, but '{config.sequence.name}' has {env.action_space}. Use agent=ppo."
        )
    if isinstance(options, ClassifierOptions) and not getattr(env.unwrapped, "labelled", False):
        raise UserError(
            f"The classifier learns from labels, but '{config.sequence.name}' has none. Use agent=ppo, agent=dqn, or a "
            "stream such as sequence=digits_random_labels."
        )
    arguments = agent_arguments(options)
    return AGENTS[options.name][0](
        "NetworkPolicy",
        env,
        policy_kwargs={
            "network": network,
            "optimizer_class": optimizer,
            "optimizer_kwargs": optimizer_kwargs,
        },
        methods=make_methods(config),
        switch=config.switch,
        seed=config.seed,
        device=checked_device(config.device),
        **arguments,
    )


def agent_arguments(options: Options) -> dict[str, Any]:
    """Returns what an agent's class takes of its options: the others are the environment's."""
    arguments = asdict(options)
    copies = "batch_size" if isinstance(options, ClassifierOptions) else "n_envs"
    for ours in ("name", copies, "learning_rate_final"):
        del arguments[ours]
    if options.learning_rate_final is not None:
        arguments["learning_rate"] = LinearSchedule(options.learning_rate, options.learning_rate_final, 1.0)
    return arguments


def checked_device(name: str) -> str:
    """Returns `name` if this machine has it; stable-baselines3 would fall back to the CPU without a word."""
    kind = name.split(":")[0]
    if kind not in ("auto", "cpu", "cuda", "mps"):
        raise UserError(f"There is no device '{name}'. {nearest(kind, ('auto', 'cpu', 'cuda', 'mps'))}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "'device=cuda' was asked for, but torch sees no CUDA device. Use device=auto or device=cpu."
        )
    if kind != "auto":
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:  # a build without it, no such number, no number
            said = str(error).splitlines()[0]
            raise UserError(
                f"torch cannot use 'device={name}': {said} Use device=auto or device=cpu."
            ) from None
    return name


import_modules("isorl.agents", isorl.agents.__path__)  # an agent in a new file registers itself
