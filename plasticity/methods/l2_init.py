"""L2-init, regenerative regularisation (Kumar et al. 2023, Maintaining Plasticity via Regenerative Regularization)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plasticity.methods.base import Learner, Method, initial_weights
from plasticity.methods.registry import METHODS


@METHODS.register("l2_init")
@dataclass
class L2Init(Method):
    """Adds strength * ||theta - theta_0||^2 to the loss, theta_0 being the weights at the start of the run.

    Attributes:
        strength: weight of the term, at least 0. Kumar et al. sweep 1e-2 ... 1e-5.
    """

    strength: float = 1e-3

    def __post_init__(self) -> None:
        if self.strength < 0:
            raise ValueError(
                f"l2_init.strength is {self.strength}; a negative strength would push weights away."
            )

    def start(self, learner: Learner) -> None:
        """Remembers theta_0."""
        self._parameters = dict(learner.parameters())
        self._initial = initial_weights(self._parameters.items())

    def loss(self, batch: Any) -> Tensor | None:
        """strength * ||theta - theta_0||^2."""
        differences = (parameter - self._initial[name] for name, parameter in self._parameters.items())
        return self.strength * torch.stack([difference.square().sum() for difference in differences]).sum()

    def state_dict(self) -> dict[str, Any]:
        """theta_0."""
        return {"initial": self._initial}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes theta_0 back, on the device of the weights."""
        for name, value in state["initial"].items():
            self._initial[name].copy_(value)
