"""Plasticity of anybody's stable-baselines3 agent: its networks as plain modules, and a callback that watches them.

from isorl.agents import PlasticityCallback
model = SAC("MlpPolicy", env).learn(100_000, callback=PlasticityCallback(every=10_000))
"""

from __future__ import annotations

import itertools
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import DISABLED, HumanOutputFormat, KVWriter
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import CombinedExtractor
from torch import Tensor, nn

from isorl.agents.policies import preprocess
from isorl.plasticity.diagnostics import DEFAULT_METRICS, diagnose, snapshot

PROBE_SIZE = 64
STEPS_PER_OBSERVATION = 20
"""Agent steps for each observation of a probe after which training that shows few different ones is taken as it is."""
OWN_FILE = Path("plasticity.jsonl")
RECURRENT = (nn.RNNBase, nn.RNNCellBase)
IN_NO_NETWORK = re.compile(r"(actor_target|critic_target|q_net_target)\.|(actor\.)?log_std\b")
"""Parameters that belong to no network of `networks_of`: copies of earlier ones, and the spread of the actions."""


class Critic(nn.Module):
    """Computes Q(s, a) of SAC or TD3 from the observation alone: sample i always gets the same random action.

    The actions are uniform in [-1, 1], where critics of stable-baselines3 take them.

    Args:
        extractor: observation -> features; a function rather than a module where the critic does not train it, which
            keeps its parameters out of the critic's figures.
        q_net: (features, action) -> value.
        action_size: A, numbers in an action.
    """

    def __init__(self, extractor: Callable[[Tensor], Tensor], q_net: nn.Module, action_size: int) -> None:
        super().__init__()
        self.extractor, self.q_net, self.action_size = extractor, q_net, action_size

    def forward(self, observations: Tensor) -> Tensor:
        """(B, ...) -> (B, 1)."""
        features = self.extractor(observations)
        drawn = np.random.default_rng(0).uniform(-1, 1, (len(features), self.action_size))
        return self.q_net(torch.cat([features, torch.as_tensor(drawn).to(features)], dim=1))


def networks_of(policy: BasePolicy) -> dict[str, nn.Module]:
    """Returns the trained networks of an SB3 policy by name, from preprocessed observation to output.

    They share the policy's own modules. Of a Gaussian actor it is the mean; `log_std` is in no network.

    Args:
        policy: of PPO, A2C, DQN, SAC, TD3, DDPG, or of our agents.

    Raises:
        ValueError: a policy of another form: Dict observations, recurrent, or with parts that none of these has.
    """
    parts: Any = policy
    if hasattr(policy, "networks"):
        return dict(parts.networks())
    kind = type(policy).__name__
    recurrent = [name for name, module in policy.named_modules() if isinstance(module, RECURRENT)]
    if recurrent:
        raise ValueError(
            f"{kind} is recurrent ({', '.join(recurrent)}): what it computes depends on past observations too, "
            "and plasticity is measured on single ones."
        )
    if any(isinstance(module, CombinedExtractor) for module in policy.modules()):
        raise ValueError(
            f"{kind} reads Dict observations: its networks have several inputs, which is not supported."
        )
    found = _found(parts)
    inside = {id(parameter) for network in found.values() for parameter in network.parameters()}
    outside = [
        name
        for name, parameter in policy.named_parameters()
        if id(parameter) not in inside and not IN_NO_NETWORK.match(name)
    ]
    if outside or not found:
        unknown = f": it has {', '.join(outside[:3])}" + (", ..." if outside[3:] else "") if outside else ""
        raise ValueError(
            f"The networks of {kind} are not known{unknown}. Name them yourself: "
            "PlasticityCallback(networks=lambda policy: {'actor': MODULE}), or diagnose({'actor': MODULE}, ...)."
        )
    return found


def _found(policy: Any) -> dict[str, nn.Module]:
    if isinstance(policy, ActorCriticPolicy):
        return {
            "actor": nn.Sequential(
                policy.pi_features_extractor, policy.mlp_extractor.policy_net, policy.action_net
            ),
            "critic": nn.Sequential(
                policy.vf_features_extractor, policy.mlp_extractor.value_net, policy.value_net
            ),
        }
    if hasattr(policy, "q_net"):
        return {"q": nn.Sequential(policy.q_net.features_extractor, policy.q_net.q_net)}
    if not (hasattr(policy, "actor") and hasattr(policy, "critic")):
        return {}
    actor, critic = policy.actor, policy.critic
    layers = [actor.latent_pi, actor.mu] if hasattr(actor, "latent_pi") else [actor.mu]
    found: dict[str, nn.Module] = {"actor": nn.Sequential(actor.features_extractor, *layers)}
    # SB3 lets the actor alone train an extractor that both share
    shared = critic.features_extractor is actor.features_extractor
    extractor = critic.features_extractor.forward if shared else critic.features_extractor
    size = int(np.prod(policy.action_space.shape))
    return found | {f"critic{i}": Critic(extractor, q_net, size) for i, q_net in enumerate(critic.q_networks)}


class PlasticityCallback(BaseCallback):
    """Records plasticity diagnostics of any SB3 algorithm where the algorithm logs.

    Every measurement is written when it is made, into every output of the agent's logger but the terminal, at the
    step at which it was made; SB3's own rows stay as they are. The keys are `plasticity/<metric>/<network>[/<layer>]`
    and `plasticity/step`; spectra become histograms in TensorBoard and lists in JSON, and are left out of CSV. Where
    the logger has no such output, the callback warns and writes `plasticity.jsonl` in the current folder.

    One callback goes through many calls of `learn` of one agent (`set_env`, `learn`, again): steps count on, whatever
    `reset_num_timesteps` is, and distances are measured from the weights at the first call. Random streams, gradients
    and training mode of the agent stay as they are. What cannot be measured is refused when training starts.

    Args:
        every: agent steps between measurements; the first is made as soon as there is a probe.
        probe: (B, ...) observations to measure on, as the policy takes them. None: the first `probe_size` different
            ones that training meets, kept for good; fewer, with a warning, where it has not met as many after `every`
            steps (at least 20 for each observation) or at the end of `learn`.
        metrics: names in plasticity.diagnostics.METRICS.
        probe_size: observations in a probe that is collected.
        networks: policy -> networks by name, each from preprocessed observation to one tensor, for policies that
            `networks_of` does not know.

    Attributes:
        step: agent steps so far, in all calls of `learn`.

    Raises:
        ValueError: `every` or `probe_size` below 1; when training starts: a policy or a network that cannot be
            measured, a probe that the policy does not take, another agent than before.
    """

    def __init__(
        self,
        every: int = 10_000,
        probe: np.ndarray | None = None,
        metrics: Sequence[str] = DEFAULT_METRICS,
        probe_size: int = PROBE_SIZE,
        networks: Callable[[BasePolicy], Mapping[str, nn.Module]] = networks_of,
    ) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"every counts agent steps and must be at least 1, got {every}.")
        if probe_size < 1:
            raise ValueError(f"probe_size counts observations and must be at least 1, got {probe_size}.")
        self.every, self.probe, self.metrics, self.probe_size = every, probe, metrics, probe_size
        self.networks = networks
        self.step = 0
        self._watched: Any = None
        self._reference: dict[str, Tensor] = {}
        self._previous: dict[str, Tensor] = {}
        self._met: dict[bytes, np.ndarray] = {}
        self._due = 0
        self._steps_before = 0
        self._file: Path | None = None

    def _on_training_start(self) -> None:
        if self._watched is None:
            self._begin()
        elif self._watched is not self.model:
            raise ValueError(
                "This PlasticityCallback watches another agent, and one reference serves one agent: make a new "
                "callback. To go on from a file with the same agent and callback, use "
                "model.set_parameters(FILE) instead of load."
            )
        # SB3's counter starts again where reset_num_timesteps is True; this one never does
        self._steps_before = max(0, self.step - self.model.num_timesteps)
        self._check_outputs()

    def _begin(self) -> None:
        self._reference = self._previous = snapshot(self.networks(self.model.policy))
        observations: Any = self.model._last_obs if self.probe is None else self.probe
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # these numbers are thrown away: it is about errors, before training
            self._measured(observations)
        if self.probe is None:
            self._meet(observations)
        self._watched = self.model
        patience = max(self.every, STEPS_PER_OBSERVATION * self.probe_size)
        self._give_up = self.model.num_timesteps + patience

    def _on_step(self) -> bool:
        self.step = self._steps_before + self.model.num_timesteps
        if self.probe is None:
            self._meet(self.locals["new_obs"])
            if len(self._met) >= self.probe_size or self.step >= self._give_up:
                self._take_probe()
        if self.probe is not None and self.step >= self._due:
            self._due = (self.step // self.every + 1) * self.every
            self._record()
        return True

    def _on_training_end(self) -> None:
        if self.probe is None:
            self._take_probe()
            self._record()

    def _record(self) -> None:
        """Measures and writes; churn is change since the last time."""
        self._write(self.measure())
        if any(name.startswith("churn") for name in self.metrics):
            self._previous = snapshot(self.networks(self.model.policy))

    def measure(self) -> dict[str, float | Tensor]:
        """Returns the diagnostics now, by key, without writing them.

        Raises:
            ValueError: training has not started or not met enough observations yet.
        """
        if self.probe is None or self._watched is None:
            raise ValueError(
                f"There is no probe batch yet: {len(self._met)} of {self.probe_size} observations were met."
                if self.probe is None
                else "There is nothing to measure before learn(callback=...) has begun."
            )
        return self._measured(self.probe)

    def _measured(self, observations: np.ndarray) -> dict[str, float | Tensor]:
        policy = self.model.policy
        return diagnose(
            self.networks(policy),
            preprocess(policy, observations),
            self.metrics,
            self._reference,
            previous=self._previous,
        )

    def _meet(self, observations: np.ndarray) -> None:
        self._met |= {row.tobytes(): row for row in observations.copy()}

    def _take_probe(self) -> None:
        self.probe = np.stack(list(self._met.values())[: self.probe_size])
        self._met.clear()
        if len(self.probe) < self.probe_size:
            warnings.warn(
                f"Training has met {len(self.probe)} different observations of {self.probe_size}: plasticity is "
                "measured on these. Hand over a `probe` of your own for more.",
                RuntimeWarning,
                stacklevel=2,
            )

    def _outputs(self) -> list[KVWriter]:
        """Returns the outputs of the agent's logger that keep what they are given."""
        formats = [] if self.logger.level == DISABLED else self.logger.output_formats
        return [f for f in formats if isinstance(f, KVWriter) and not isinstance(f, HumanOutputFormat)]

    def _check_outputs(self) -> None:
        """Makes a file where the logger has no output, before there is anything to lose."""
        if self._outputs() or self._file is not None:
            return
        names = itertools.chain(
            [OWN_FILE], (OWN_FILE.with_stem(f"{OWN_FILE.stem}-{i}") for i in itertools.count(2))
        )
        self._file = next(path for path in names if not path.exists()).absolute()
        self._file.touch()
        warnings.warn(
            "The agent logs to no file (tensorboard_log, set_logger): plasticity is written to "
            f"'{self._file}'.",
            RuntimeWarning,
            stacklevel=2,
        )

    def _write(self, values: Mapping[str, float | Tensor]) -> None:
        # not logger.record: it keeps one value a key until SB3 dumps, many measurements later
        row = {**values, "plasticity/step": self.step}
        excluded = {key: ("csv",) if isinstance(value, Tensor) else () for key, value in values.items()}
        for output in self._outputs():
            output.write(row, {**excluded, "plasticity/step": ("tensorboard",)}, self.step)
        if not self._outputs():
            assert self._file is not None
            with self._file.open("a") as file:
                file.write(json.dumps(row, default=Tensor.tolist) + "\n")
