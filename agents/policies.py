"""Policies of stable-baselines3 with our networks: `policy_kwargs={"network": NetworkSpec(...)}`.

Vectors get an MLP body, images the Nature CNN, below 36 x 36 pixels the small CNN, or what `NetworkSpec.body` says;
heads are plain linear layers that no isometry touches. With relu or tanh the modules of MLP and Nature CNN, their
order and their random draws are exactly stable-baselines3's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.dqn.policies import DQNPolicy
from torch import Tensor, nn

from isorl.plasticity import AdamO, NetworkSpec, build_mlp, initialise_, parameter_groups
from isorl.plasticity.networks import body_for, build_body, masked


def uses_cnn(space: spaces.Space, network: NetworkSpec) -> bool:
    """Tells whether observations of `space` go through a convolutional body."""
    return isinstance(space, spaces.Box) and body_for(space.shape, network) != "mlp"


class CnnBody(BaseFeaturesExtractor):
    """A convolutional body, shared by actor and critic as in stable-baselines3."""

    def __init__(self, observation_space: spaces.Box, network: NetworkSpec) -> None:
        super().__init__(observation_space, features_dim=1)  # known only once the body is made
        self.body = build_body(observation_space.shape, network)
        self._features_dim = self.body.out_features

    def forward(self, observations: Tensor) -> Tensor:
        """Maps images (B, C, H, W), pictures scaled to [0, 1], to features (B, features)."""
        return self.body(observations)


class ActorCriticBodies(nn.Module):
    """One MLP body for the actor and one for the critic; the interface of SB3's MlpExtractor."""

    def __init__(self, in_features: int, network: NetworkSpec) -> None:
        super().__init__()
        self.policy_net = build_mlp(in_features, network)
        self.value_net = build_mlp(in_features, network)
        self.latent_dim_pi = self.policy_net.out_features
        self.latent_dim_vf = self.value_net.out_features

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Maps features (B, I) to the latents of policy and value, (B, O) each."""
        return self.policy_net(features), self.value_net(features)

    def forward_actor(self, features: Tensor) -> Tensor:
        """Maps features (B, I) to a latent (B, O)."""
        return self.policy_net(features)

    def forward_critic(self, features: Tensor) -> Tensor:
        """Maps features (B, I) to a latent (B, O)."""
        return self.value_net(features)


class MethodPolicyMixin(BasePolicy):
    """Adds what plasticity methods ask of a policy besides its networks."""

    def inputs(self, observations: PyTorchObs) -> Tensor:
        """Makes of a minibatch's observations (B, ...) what the networks of `networks()` take."""
        space, normalize = self.observation_space, self.normalize_images
        return preprocess_obs(observations, space, normalize_images=normalize)  # type: ignore

    def fresh(self) -> BasePolicy:
        """Returns a newly initialised twin, as at the beginning of a run; its optimizer is not used."""
        return type(self)(**self._get_constructor_parameters()).to(self.device)


class NetworkActorCritic(MethodPolicyMixin, ActorCriticPolicy):
    """PPO's policy: actor and critic built from a NetworkSpec, parameters sorted by role."""

    HEADS = ("action_net", "value_net")
    NETWORK = NetworkSpec(activation="tanh")
    ADAM_EPS = 1e-5

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        network: NetworkSpec | None = None,
        **kwargs: Any,
    ) -> None:
        self.network = network or self.NETWORK
        self.is_cnn = uses_cnn(observation_space, self.network)
        if self.is_cnn:
            kwargs.update(
                features_extractor_class=CnnBody, features_extractor_kwargs={"network": self.network}
            )
        super().__init__(
            observation_space, action_space, lr_schedule, net_arch=[] if self.is_cnn else None, **kwargs
        )

    def _build_mlp_extractor(self) -> None:
        if self.is_cnn:
            super()._build_mlp_extractor()  # empty: both heads stand on the shared convolutional body
        else:
            self.mlp_extractor = ActorCriticBodies(self.features_dim, self.network)  # type: ignore[assignment]

    def _build(self, lr_schedule: Schedule) -> None:
        with _without_optimizer(self):
            super()._build(lr_schedule)
        if (
            self.network.orthogonal_gain is not None
        ):  # else stable-baselines3's orthogonal initialisation with gain sqrt 2 stays
            for body in _bodies(self):
                initialise_(body, self.network)
        self.optimizer = _make_optimizer(self, self, self.HEADS, lr_schedule)

    def networks(self) -> dict[str, nn.Sequential]:
        """Returns actor and critic from preprocessed observation to output; the modules are the policy's own."""
        if self.is_cnn:
            body: Any = self.features_extractor.body
            return {
                "actor": nn.Sequential(body, self.action_net),
                "critic": nn.Sequential(body, self.value_net),
            }
        return {
            "actor": nn.Sequential(nn.Flatten(), self.mlp_extractor.policy_net, self.action_net),
            "critic": nn.Sequential(nn.Flatten(), self.mlp_extractor.value_net, self.value_net),
        }

    def targets(self) -> dict[str, nn.Module]:
        """Returns nothing: PPO has no target network."""
        return {}

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return _with_network(super()._get_constructor_parameters(), self.network)


class NetworkQ(BasePolicy):
    """A Q-network: body and linear head; the interface of SB3's QNetwork."""

    HEADS = ("q_net.1",)

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Discrete,
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        network: NetworkSpec,
        normalize_images: bool = True,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor=features_extractor,
            normalize_images=normalize_images,
        )
        is_cnn = isinstance(features_extractor, CnnBody)
        body = nn.Identity() if is_cnn else build_mlp(features_dim, network)
        self.q_net = nn.Sequential(
            body, nn.Linear(getattr(body, "out_features", features_dim), int(action_space.n))
        )

    def forward(self, obs: PyTorchObs) -> Tensor:
        """Maps observations (B, ...) to values (B, actions)."""
        return self.q_net(self.extract_features(obs, self.features_extractor))

    def _predict(self, observation: PyTorchObs, deterministic: bool = True) -> Tensor:
        return self(observation).argmax(dim=1).reshape(-1)


class NetworkDQNPolicy(MethodPolicyMixin, DQNPolicy):
    """DQN's policy: online and target network built from a NetworkSpec, parameters sorted by role."""

    NETWORK = NetworkSpec(activation="relu")
    ADAM_EPS = 1e-8
    Q: type[NetworkQ] = NetworkQ

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        network: NetworkSpec | None = None,
        **kwargs: Any,
    ) -> None:
        self.network = network or self.NETWORK
        self.is_cnn = uses_cnn(observation_space, self.network)
        if self.is_cnn:
            kwargs.update(
                features_extractor_class=CnnBody, features_extractor_kwargs={"network": self.network}
            )
        else:
            kwargs.setdefault("features_extractor_class", FlattenExtractor)
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def make_q_net(self) -> NetworkQ:  # type: ignore[override]
        """Makes a new Q-network with its own features extractor."""
        arguments = self._update_features_extractor(self.net_args, features_extractor=None)
        for unused in ("net_arch", "activation_fn"):
            arguments.pop(unused, None)
        q_net = self.Q(network=self.network, **arguments)
        if (
            self.network.orthogonal_gain is not None
        ):  # else torch's default initialisation stays, as in stable-baselines3
            for body in _bodies(q_net):
                initialise_(body, self.network)
        return q_net.to(self.device)

    def _build(self, lr_schedule: Schedule) -> None:
        with _without_optimizer(self):
            super()._build(lr_schedule)
        self.optimizer = _make_optimizer(self, self.q_net, NetworkQ.HEADS, lr_schedule)

    def networks(self) -> dict[str, nn.Sequential]:
        """Returns the online network from preprocessed observation to values."""
        return {"q": _q_sequence(self.q_net)}

    def targets(self) -> dict[str, nn.Module]:
        """Returns the target network."""
        return {"q": _q_sequence(self.q_net_target)}

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return _with_network(super()._get_constructor_parameters(), self.network)


class NetworkClassifier(MethodPolicyMixin):
    """A classifier's policy: body and linear head from a NetworkSpec; its action is the likeliest class.

    Every body starts orthogonal with its activation's gain and every head with gain 1, as PPO's bodies do here and
    in stable-baselines3: what is compared is the learning, not the start.
    """

    HEADS = ("head",)
    NETWORK = NetworkSpec(activation="relu")
    ADAM_EPS = 1e-8

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        network: NetworkSpec | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(observation_space, action_space, **kwargs)
        self.network = network or self.NETWORK
        self.allowed: Tensor | None = None  # of the present task, so no part of the state
        self.is_cnn = uses_cnn(observation_space, self.network)
        self.body = build_body(observation_space.shape or (), self.network)
        self.head = nn.Linear(self.body.out_features, int(action_space.n))
        initialise_(
            self.body, replace(self.network, gain=self.network.orthogonal_gain or self.network.unit.gain)
        )
        nn.init.orthogonal_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.optimizer = _make_optimizer(self, self, self.HEADS, lr_schedule)

    def forward(self, observations: PyTorchObs) -> Tensor:
        """Maps observations (B, ...) to logits (B, C) of the classes."""
        inputs = self.inputs(observations)
        return self.head(self.body(inputs if self.is_cnn else inputs.flatten(1)))

    def restrict(self, allowed: np.ndarray | None) -> None:
        """Restricts the answers from now on to the classes that are `allowed` (C,); None: all."""
        self.allowed = None if allowed is None else torch.as_tensor(allowed, device=self.device)

    def _predict(self, observation: PyTorchObs, deterministic: bool = True) -> Tensor:
        return masked(self(observation), self.allowed).argmax(dim=1)

    def networks(self) -> dict[str, nn.Sequential]:
        """Returns the network from preprocessed observation to logits."""
        flatten = [] if self.is_cnn else [nn.Flatten()]
        return {"classifier": nn.Sequential(*flatten, self.body, self.head)}

    def targets(self) -> dict[str, nn.Module]:
        """Returns nothing: a classifier has no target network."""
        return {}

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters = super()._get_constructor_parameters()
        optimizer = {"optimizer_class": self.optimizer_class, "optimizer_kwargs": self.optimizer_kwargs}
        return {**parameters, **optimizer, "lr_schedule": self._dummy_schedule, "network": self.network}


def preprocess(policy: BasePolicy, observations: Any) -> Tensor:
    """Makes of observations (B, ...) in numpy the float batch that the networks of `networks()` take."""
    tensor, _ = policy.obs_to_tensor(observations)
    return preprocess_obs(tensor, policy.observation_space, normalize_images=policy.normalize_images)  # type: ignore


def _q_sequence(q_net: Any) -> nn.Sequential:
    body = q_net.features_extractor.body if isinstance(q_net.features_extractor, CnnBody) else nn.Flatten()
    return nn.Sequential(body, *(layer for layer in q_net.q_net if not isinstance(layer, nn.Identity)))


def _bodies(policy: nn.Module) -> list[nn.Module]:
    """Every body that a NetworkSpec built, once each."""
    found = {id(module): module for module in policy.modules() if hasattr(module, "out_features")}
    return [module for module in found.values() if not isinstance(module, nn.Linear)]


@contextmanager
def _without_optimizer(policy: Any) -> Iterator[None]:
    """SB3 builds networks and optimizer in one go; here the optimizer comes after, with groups by role."""
    given = policy.optimizer_class, policy.optimizer_kwargs
    policy.optimizer_class, policy.optimizer_kwargs = (lambda parameters, lr: None), {}
    try:
        yield
    finally:
        policy.optimizer_class, policy.optimizer_kwargs = given


def _make_optimizer(
    policy: BasePolicy, trained: nn.Module, heads: tuple[str, ...], lr_schedule: Schedule
) -> torch.optim.Optimizer:
    """SB3 hands its optimizer a flat list; one that treats hidden weights apart (`by_role`) gets groups.

    AdamO gets the eps that stable-baselines3 gives plain Adam: with strength 0 they are the same.
    """
    options = dict(policy.optimizer_kwargs)
    if issubclass(policy.optimizer_class, AdamO):
        options.setdefault("eps", policy.ADAM_EPS)
    if issubclass(policy.optimizer_class, AdamO) or getattr(policy.optimizer_class, "by_role", False):
        parameters: Any = parameter_groups(trained, heads=heads)
    else:
        parameters = trained.parameters()
    return policy.optimizer_class(parameters, lr=lr_schedule(1), **options)  # type: ignore[call-arg]


def _with_network(parameters: dict[str, Any], network: NetworkSpec) -> dict[str, Any]:
    for unused in ("net_arch", "activation_fn", "features_extractor_class", "features_extractor_kwargs"):
        parameters.pop(unused, None)
    return {**parameters, "network": network}
