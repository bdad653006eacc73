"""The policies of policies.py computed fast: the same modules, parameters and random draws, other arithmetic.

Images are channels_last from the buffer to the last convolution (weights need not be: it made no difference, and
optimizers that look at them as matrices would stumble), distributions are plain functions
(distributions.py), small actors answer in numpy (numpy_mlp.py), and `precision="bfloat16"` computes the networks in
half precision, in the rollout as in the update, while weights, losses and optimizer stay float32.
"""

from __future__ import annotations

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

from isorl.agents.distributions import categorical, draw_categorical, draw_gaussian, gaussian
from isorl.agents.numpy_mlp import NumpyMlp
from isorl.agents.policies import CnnBody, NetworkActorCritic, NetworkDQNPolicy, NetworkQ
from isorl.agents.products import through

PRECISIONS = ("float32", "tfloat32", "bfloat16")


class Precise(BasePolicy):
    """Networks that compute in a chosen precision on images that are channels_last."""

    precision = "float32"
    _in_numpy: tuple[NumpyMlp, ...] = ()
    """The networks, while they answer in numpy."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._scales = self.normalize_images and is_image_space(self.observation_space, check_channels=False)

    def numpy_networks(self) -> tuple[NumpyMlp, ...]:
        """Those of `networks()` as they are now; none where numpy does not know a layer, or is slower."""
        plain = self.device.type == "cpu" and self.precision == "float32" and not self._scales
        try:
            return tuple(map(NumpyMlp, self.networks().values())) if plain else ()  # type: ignore[operator]
        except ValueError:
            return ()

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[Any, Any]:
        """stable-baselines3's: (B, ...) observations -> actions (B, ...), and no state."""
        networks, space = self._in_numpy, self.observation_space
        batch = isinstance(observation, np.ndarray) and observation.shape[1:] == space.shape
        if not (networks and batch and networks[0].suits(len(observation))):
            return super().predict(observation, state, episode_start, deterministic)
        with np.errstate(all="ignore"):  # torch says nothing of numbers that are not finite, either
            return self._chosen(observation.astype(np.float32, copy=False), deterministic), state

    def _chosen(self, observations: np.ndarray, deterministic: bool) -> np.ndarray:
        """The actions of the networks in numpy."""
        raise NotImplementedError

    def autocast(self) -> AbstractContextManager[Any]:
        """Inside, linear layers and convolutions compute in `precision`."""
        if self.precision != "bfloat16":
            return nullcontext()  # entering torch's own costs as much as a small layer
        return torch.autocast(self.device.type, torch.bfloat16)

    def keeping_casts(self) -> AbstractContextManager[Any]:
        """Inside, weights are rounded to half precision once and not at every answer; nothing may change them."""
        if self.precision != "bfloat16":
            return nullcontext()
        # torch keeps them until the outermost autocast ends, enabled or not
        return torch.autocast(self.device.type, enabled=False)

    def prepared(self, observations: Any) -> Tensor:
        """(B, ...) observations -> what the networks read: stable-baselines3's `preprocess_obs`."""
        if observations.ndim == 4:
            observations = observations.contiguous(memory_format=torch.channels_last)
        dtype = torch.bfloat16 if self.precision == "bfloat16" else torch.float32
        return observations.to(dtype).div_(255) if self._scales else observations.float()


@contextmanager
def answering(policy: BasePolicy) -> Iterator[None]:
    """Inside, `policy` answers fast, small networks in numpy; nothing may change weights or put others in place."""
    if not isinstance(policy, Precise):
        yield
        return
    before, policy._in_numpy = policy._in_numpy, policy.numpy_networks()
    try:
        with policy.keeping_casts():
            yield
    finally:
        policy._in_numpy = before


class FastActorCritic(Precise, NetworkActorCritic):
    """PPO's policy. Takes discrete or Gaussian actions, without state-dependent exploration.

    Args:
        args: of NetworkActorCritic.
        precision: float32, tfloat32 (see Fast), or bfloat16 for the networks.
        kwargs: of NetworkActorCritic.
    """

    def __init__(self, *args: Any, precision: str = "float32", **kwargs: Any) -> None:
        self.precision = precision
        super().__init__(*args, **kwargs)
        self.is_discrete = isinstance(self.action_space, spaces.Discrete)

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """(B, ...) -> actions (B, ...), values (B, 1), log-probabilities (B,)."""
        outputs, values = self._answer(obs)
        actions, log_prob = self._drawn(outputs, deterministic)
        return actions, values, log_prob

    def _drawn(self, outputs: Tensor, deterministic: bool) -> tuple[Tensor, Tensor]:
        if self.is_discrete:
            return draw_categorical(outputs, deterministic)
        return draw_gaussian(outputs, self.log_std, deterministic)

    @torch.no_grad()
    def _chosen(self, observations: np.ndarray, deterministic: bool) -> np.ndarray:
        outputs = torch.from_numpy(self._in_numpy[0](observations))
        actions = self._drawn(outputs, deterministic)[0].numpy()
        space = self.action_space
        return np.clip(actions, space.low, space.high) if isinstance(space, spaces.Box) else actions

    def evaluate_actions(self, obs: PyTorchObs, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, ...), (B, ...) -> values (B, 1), log-probabilities (B,), entropies (B,)."""
        outputs, values = self._outputs(obs)
        if self.is_discrete:
            return values, *categorical(outputs, actions)
        return values, *gaussian(outputs, self.log_std, actions)

    def predict_values(self, obs: PyTorchObs) -> Tensor:
        """(B, ...) -> (B, 1)."""
        return self._outputs(obs)[1]

    def _answer(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        numpy = self._in_numpy
        if not (numpy and numpy[0].suits(len(obs))):
            return self._outputs(obs)
        x = obs.numpy().astype(np.float32, copy=False)
        return torch.from_numpy(numpy[0](x)), torch.from_numpy(numpy[1](x))

    def _outputs(self, obs: Any) -> tuple[Tensor, Tensor]:
        """(B, ...) -> outputs of the actor (B, A) and the critic (B, 1), float32."""
        with self.autocast():
            x = self.prepared(obs)
            if self.is_cnn:
                of_actor = of_critic = through(self.features_extractor.body, x)  # type: ignore[arg-type]
            else:
                of_actor, of_critic = self.mlp_extractor(x.flatten(1))
            outputs, values = self.action_net(of_actor), self.value_net(of_critic)
        return outputs.float(), values.float()

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "precision": self.precision}


class FastQ(Precise, NetworkQ):
    """A Q-network."""

    def forward(self, obs: PyTorchObs) -> Tensor:
        """(B, ...) observations -> (B, actions) values, float32."""
        with self.autocast():
            x = self.prepared(obs)
            body: Any = self.features_extractor
            features = through(body.body, x) if isinstance(body, CnnBody) else body(x)
            return self.q_net(features).float()


class FastDQNPolicy(Precise, NetworkDQNPolicy):
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

    def _chosen(self, observations: np.ndarray, deterministic: bool) -> np.ndarray:
        return self._in_numpy[0](observations).argmax(-1)

    def set_training_mode(self, mode: bool) -> None:
        """stable-baselines3's, where something changes: it is called at every step."""
        if mode != self.training:
            super().set_training_mode(mode)

    def make_q_net(self) -> NetworkQ:  # type: ignore[override]
        """A new Q-network that computes in `precision`."""
        q_net: Any = super().make_q_net()
        q_net.precision = self.precision
        return q_net

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "precision": self.precision}
