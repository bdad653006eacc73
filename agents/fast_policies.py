"""The policies of policies.py computed fast: the same modules, parameters and random draws, other arithmetic.

Images are channels_last from the buffer to the last convolution, distributions are plain functions (distributions.py),
small networks act in numpy where nothing trains them, and `precision="bfloat16"` computes the networks in half
precision, in the rollout as in the update, while weights, losses and optimizer stay float32.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from isorl.agents.batched.traced import Traces, close, traced, why_not_traced
from isorl.agents.distributions import categorical, draw_categorical, draw_gaussian, gaussian
from isorl.agents.policies import NetworkActorCritic, NetworkDQNPolicy, NetworkQ

LOG = logging.getLogger("isorl")
LARGEST = 1 << 15
"""Weights of one layer up to which numpy is ahead of torch for a handful of observations."""
PRECISIONS = ("float32", "tfloat32", "bfloat16")


class MixedPrecisionMixin(BasePolicy):
    """Computes networks in a chosen precision on images that are channels_last; stands before a policy's class."""

    precision = "float32"
    noise_width = 0
    """How many numbers of noise draw one action; 0 where actions are not drawn."""
    _in_numpy: dict[str, np.ndarray] | None = None
    """While small networks act in numpy: parameters (1, *shape)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._traces = Traces()
        self.scales_images = self.normalize_images and is_image_space(
            self.observation_space, check_channels=False
        )

    def is_small(self) -> bool:
        """Tells whether numpy is ahead of torch where this policy acts."""
        plain = self.device.type == "cpu" and self.precision == "float32" and why_not_traced(self) is None
        return plain and max(parameter.numel() for parameter in self.parameters()) <= LARGEST

    def answer(self, obs: Tensor, noise: Tensor | None = None) -> tuple[Tensor, ...]:
        """Maps observations (B, ...) and `noise`, or None for the best, to actions (B, ...) and what made them so."""
        raise NotImplementedError

    def fill_noise(self, noise: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Fills (B, noise_width) with the noise by which actions are drawn."""
        raise NotImplementedError

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[Any, Any]:
        """Does what stable-baselines3's does: (B, ...) observations -> actions (B, ...), and no state."""
        space: Any = self.observation_space
        alike = isinstance(observation, np.ndarray) and observation.dtype == space.dtype
        if not (self._in_numpy and alike and observation.shape[1:] == space.shape):
            return super().predict(observation, state, episode_start, deterministic)
        noise = torch.zeros(1, len(observation), 0 if deterministic else self.noise_width)
        given = [observation.reshape(1, len(observation), -1), *([noise.numpy()] if noise.numel() else [])]
        graph = self._graph(given)
        if graph is None:
            return super().predict(observation, state, episode_start, deterministic)
        if noise.numel():
            self.fill_noise(noise)
        with np.errstate(all="ignore"):  # torch says nothing of numbers that are not finite, either
            actions = graph(*self._in_numpy.values(), *given)[0][0]
        if isinstance(self.action_space, spaces.Box):
            actions = np.clip(actions, self.action_space.low, self.action_space.high)
        return actions, state

    @torch.no_grad()
    def _graph(self, given: list[np.ndarray]) -> Any:
        """Returns how to answer in numpy, of arrays (1, B, ...) of these shapes; None where it cannot be traced."""
        arrays: dict[str, np.ndarray] = self._in_numpy or {}
        tensors = list(map(torch.from_numpy, given))

        def trace() -> Any:
            named = {name: torch.from_numpy(array) for name, array in arrays.items()}
            try:
                return traced(self, lambda *given: self.answer(*given)[:2], named, tensors)[0]
            except Exception as error:  # of modules that do what cannot be traced
                LOG.info("the policy acts by torch: %s", str(error).splitlines()[0])
                return None

        def agrees(graph: Any) -> bool:
            return close(
                (own[0] for own in graph(*arrays.values(), *given)), self.answer(*(own[0] for own in tensors))
            )

        return self._traces.get(tuple(array.shape for array in given), trace, agrees)

    def autocast(self) -> AbstractContextManager[Any]:
        """Lets linear layers and convolutions inside compute in `precision`."""
        if self.precision != "bfloat16":
            return nullcontext()  # entering torch's own costs as much as a small layer
        return torch.autocast(self.device.type, torch.bfloat16)

    def keeping_casts(self) -> AbstractContextManager[Any]:
        """Rounds weights to half precision once inside, not at every answer; nothing may change them there."""
        if self.precision != "bfloat16":
            return nullcontext()
        # torch keeps them until the outermost autocast ends, enabled or not
        return torch.autocast(self.device.type, enabled=False)

    def prepared(self, observations: Any) -> Tensor:
        """Makes of observations (B, ...) what the networks read, as stable-baselines3's `preprocess_obs` does."""
        if observations.ndim == 4:
            observations = observations.contiguous(memory_format=torch.channels_last)
        dtype = torch.bfloat16 if self.precision == "bfloat16" else torch.float32
        return observations.to(dtype).div_(255) if self.scales_images else observations.float()


@contextmanager
def numpy_inference(policy: BasePolicy) -> Iterator[None]:
    """Lets `policy` act fast inside, small networks in numpy; nothing may change weights or modules there."""
    if not isinstance(policy, MixedPrecisionMixin):
        yield
        return
    before = policy._in_numpy
    if policy.is_small():
        policy._in_numpy = {name: p.detach()[None].numpy() for name, p in policy.named_parameters()}
        policy._traces.doubt()
    try:
        with policy.keeping_casts():
            yield
    finally:
        policy._in_numpy = before


class FastActorCritic(MixedPrecisionMixin, NetworkActorCritic):
    """PPO's policy for discrete or Gaussian actions, without state-dependent exploration.

    Args:
        args: of NetworkActorCritic.
        precision: float32, tfloat32 (see Fast), or bfloat16 for the networks.
        kwargs: of NetworkActorCritic.
    """

    def __init__(self, *args: Any, precision: str = "float32", **kwargs: Any) -> None:
        self.precision = precision
        super().__init__(*args, **kwargs)
        space: Any = self.action_space
        self.is_discrete = isinstance(space, spaces.Discrete)
        self.noise_width = space.n if self.is_discrete else space.shape[0]

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Maps observations (B, ...) to actions (B, ...), values (B, 1), log-probabilities (B,)."""
        noise = None if deterministic else torch.empty(len(obs), self.noise_width, device=obs.device)
        actions, log_probs, values = self.answer(obs, noise if noise is None else self.fill_noise(noise))
        return actions, values, log_probs

    def answer(self, obs: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Maps observations (B, ...) and noise (B, A) to actions (B, ...), log-probabilities (B,), values (B, 1)."""
        outputs, values = self._outputs(obs)
        if self.is_discrete:
            return *draw_categorical(outputs, noise), values
        return *draw_gaussian(outputs, self.log_std, noise), values

    def evaluate_actions(self, obs: PyTorchObs, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps (B, ...), (B, ...) to values (B, 1), log-probabilities (B,), entropies (B,)."""
        outputs, values = self._outputs(obs)
        if self.is_discrete:
            return values, *categorical(outputs, actions)
        return values, *gaussian(outputs, self.log_std, actions)

    def predict_values(self, obs: PyTorchObs) -> Tensor:
        """Maps observations (B, ...) to values (B, 1)."""
        return self._outputs(obs)[1]

    def fill_noise(self, noise: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Fills (B, A) with Gumbel or normal noise, from the numbers by which torch.distributions draws actions."""
        if self.is_discrete:
            return noise.exponential_(generator=generator).log_().neg_()
        return noise.normal_(generator=generator)

    def _outputs(self, obs: Any) -> tuple[Tensor, Tensor]:
        """Maps observations (B, ...) to outputs of the actor (B, A) and the critic (B, 1), float32."""
        with self.autocast():
            x = self.prepared(obs)
            if self.is_cnn:
                of_actor = of_critic = self.features_extractor.body(x)  # type: ignore[operator]
            else:
                of_actor, of_critic = self.mlp_extractor(x.flatten(1))
            outputs, values = self.action_net(of_actor), self.value_net(of_critic)
        return outputs.float(), values.float()

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "precision": self.precision}


class FastQ(MixedPrecisionMixin, NetworkQ):
    """A Q-network."""

    def forward(self, obs: PyTorchObs) -> Tensor:
        """Maps observations (B, ...) to values (B, actions), float32."""
        with self.autocast():
            return self.q_net(self.features_extractor(self.prepared(obs))).float()


class FastDQNPolicy(MixedPrecisionMixin, NetworkDQNPolicy):
    """DQN's policy.

    Args:
        args: of NetworkDQNPolicy.
        precision: float32, tfloat32 (see Fast), or bfloat16 for both networks.
        kwargs: of NetworkDQNPolicy.
    """

    Q = FastQ

    def __init__(self, *args: Any, precision: str = "float32", **kwargs: Any) -> None:
        self.precision = precision
        super().__init__(*args, **kwargs)

    def answer(self, obs: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps observations (B, ...) to the greedy actions (B,) and the values of all (B, A)."""
        q = self.q_net(obs)
        return q.argmax(-1), q

    def set_training_mode(self, mode: bool) -> None:
        """Does what stable-baselines3's does, where something changes: it is called at every step."""
        if mode != self.training:
            super().set_training_mode(mode)

    def make_q_net(self) -> NetworkQ:  # type: ignore[override]
        """Makes a Q-network that computes in `precision`."""
        q_net: Any = super().make_q_net()
        q_net.precision = self.precision
        return q_net

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "precision": self.precision}
