"""Plasticity of anybody's stable-baselines3 agent: its networks as plain modules, and a callback that watches them.

from isorl.agents import PlasticityCallback
model = SAC("MlpPolicy", env).learn(100_000, callback=PlasticityCallback(every=10_000))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import CombinedExtractor
from torch import Tensor, nn

from isorl.agents.policies import preprocess
from isorl.plasticity.diagnostics import DEFAULT_METRICS, diagnose, snapshot

PROBE_SIZE = 64


class Critic(nn.Module):
    """A Q(s, a) network of SAC or TD3 as a function of the observation, the actions being fixed.

    Args:
        extractor: observation -> features.
        q_net: (features, action) -> value.
        actions: (B, A), one for each observation of the probe batch.
    """

    def __init__(self, extractor: nn.Module, q_net: nn.Module, actions: Tensor) -> None:
        super().__init__()
        self.extractor, self.q_net = extractor, q_net
        self.actions = actions

    def forward(self, observations: Tensor) -> Tensor:
        """(B, ...) -> (B, 1); fewer observations take the first actions."""
        features = self.extractor(observations)
        return self.q_net(torch.cat([features, self.actions[: len(features)]], dim=1))


def networks_of(policy: BasePolicy, actions: Tensor | None = None) -> dict[str, nn.Module]:
    """The trained networks of an SB3 policy by name, from preprocessed observation to output.

    Args:
        policy: of PPO, A2C, DQN, SAC, TD3, DDPG, or of our agents.
        actions: (B, A) for the critics of SAC and TD3; without them the critics are left out.

    Raises:
        ValueError: a policy of another form.
    """
    parts: Any = policy
    if hasattr(policy, "networks"):
        return dict(parts.networks())
    if isinstance(getattr(parts, "features_extractor", None), CombinedExtractor):
        raise ValueError(
            "Policies on Dict observations are not supported: their networks have several inputs."
        )
    if isinstance(policy, ActorCriticPolicy):
        return {
            "actor": nn.Sequential(
                parts.pi_features_extractor, parts.mlp_extractor.policy_net, parts.action_net
            ),
            "critic": nn.Sequential(
                parts.vf_features_extractor, parts.mlp_extractor.value_net, parts.value_net
            ),
        }
    if hasattr(policy, "q_net"):
        return {"q": nn.Sequential(parts.q_net.features_extractor, parts.q_net.q_net)}
    if hasattr(policy, "actor") and hasattr(policy, "critic"):
        actor, critic = parts.actor, parts.critic
        layers = [actor.latent_pi, actor.mu] if hasattr(actor, "latent_pi") else [actor.mu]
        found: dict[str, nn.Module] = {"actor": nn.Sequential(actor.features_extractor, *layers)}
        if actions is not None:
            for number, q_net in enumerate(critic.q_networks):
                found[f"critic{number}"] = Critic(critic.features_extractor, q_net, actions)
        return found
    raise ValueError(
        f"The networks of a {type(policy).__name__} are not known; pass your modules to diagnose()."
    )


class PlasticityCallback(BaseCallback):
    """Records plasticity diagnostics of any SB3 algorithm in its own logger.

    The keys are `plasticity/<metric>/<network>[/<layer>]`; spectra become histograms in TensorBoard. Random
    streams, gradients and training mode of the agent stay as they are.

    Args:
        every: agent steps between measurements.
        probe: (B, ...) observations to measure on, as the policy takes them. None: the first `PROBE_SIZE`
            different ones that training meets, kept for good.
        metrics: names in plasticity.diagnostics.METRICS.

    Raises:
        ValueError: `every` below 1.
    """

    def __init__(
        self, every: int = 10_000, probe: np.ndarray | None = None, metrics: Sequence[str] = DEFAULT_METRICS
    ) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"every counts agent steps and must be at least 1, got {every}.")
        self.every, self.probe, self.metrics = every, probe, metrics
        self._met: dict[bytes, np.ndarray] = {}
        self._due = 0

    def _on_training_start(self) -> None:
        # from the start of training, before any update: what distances are measured from
        self._reference = snapshot(networks_of(self.model.policy, self._actions(1)))

    def _on_step(self) -> bool:
        if self.probe is None:
            self._met |= {row.tobytes(): row for row in self.locals["new_obs"].copy()}
            if len(self._met) >= PROBE_SIZE:
                self.probe = np.stack(list(self._met.values())[:PROBE_SIZE])
        elif self.model.num_timesteps >= self._due:
            self._due = (self.model.num_timesteps // self.every + 1) * self.every
            for key, value in self.measure().items():
                self.logger.record(key, value, exclude=("stdout", "log", "csv", "json"))
        return True

    def measure(self) -> dict[str, float | Tensor]:
        """The diagnostics now.

        Raises:
            ValueError: no probe batch was given and training has not met enough observations yet.
        """
        if self.probe is None:
            raise ValueError(
                f"There is no probe batch yet: {len(self._met)} of {PROBE_SIZE} observations were met."
            )
        networks = networks_of(self.model.policy, self._actions(len(self.probe)))
        return diagnose(networks, preprocess(self.model.policy, self.probe), self.metrics, self._reference)

    def _actions(self, count: int) -> Tensor | None:
        """(count, A) actions in [-1, 1] for critics of continuous actions: the same ones every time."""
        space = self.model.action_space
        if not isinstance(space, spaces.Box):
            return None
        drawn = np.random.default_rng(0).uniform(-1, 1, (count, int(np.prod(space.shape))))
        return torch.as_tensor(drawn, dtype=torch.float32, device=self.model.device)
