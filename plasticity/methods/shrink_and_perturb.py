"""Shrink and perturb (Ash and Adams 2020, On Warm-Starting Neural Network Training)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from plasticity.methods.base import Learner, Method
from plasticity.methods.registry import METHODS


@METHODS.register("shrink_and_perturb")
@dataclass
class ShrinkAndPerturb(Method):
    """theta <- shrink * theta + noise * std(theta_0) * N(0, 1), with fresh noise, at each switch or each update.

    std(theta_0) is taken per parameter tensor at the start, so that the noise has the scale of the initialisation;
    tensors that start constant (biases, norms) are shrunk only.

    Attributes:
        shrink: factor on the weights, in (0, 1].
        noise: scale of the noise relative to the initialisation, at least 0.
        when: "switch", or "update" for the soft form, which wants a shrink near one (0.999999 is usual).
    """

    shrink: float = 0.5
    noise: float = 0.1
    when: str = "switch"

    def __post_init__(self) -> None:
        if not 0 < self.shrink <= 1:
            raise ValueError(f"shrink_and_perturb.shrink is {self.shrink}; it must be above 0 and at most 1.")
        if self.noise < 0:
            raise ValueError(f"shrink_and_perturb.noise is {self.noise}; it must be at least 0.")
        if self.when not in ("switch", "update"):
            raise ValueError(f"shrink_and_perturb.when is '{self.when}'; it must be 'switch' or 'update'.")

    def start(self, learner: Learner) -> None:
        """Remembers the scale of the initialisation."""
        self._generator = learner.generator
        self._parameters = [parameter for _, parameter in learner.parameters()]
        self._scale = [float(p.detach().std()) if p.numel() > 1 else 0.0 for p in self._parameters]

    def after_update(self) -> None:
        """The soft form."""
        if self.when == "update":
            self._apply()

    def on_switch(self) -> None:
        """The original form."""
        if self.when == "switch":
            self._apply()

    @torch.no_grad()
    def _apply(self) -> None:
        for parameter, scale in zip(self._parameters, self._scale, strict=True):
            parameter.mul_(self.shrink)
            if scale > 0:
                # drawn on the CPU: the same noise on every device
                noise = torch.randn(parameter.shape, generator=self._generator)
                parameter.add_(noise.to(parameter.device), alpha=self.noise * scale)

    def state_dict(self) -> dict[str, Any]:
        """Scale of the initialisation."""
        return {"scale": self._scale}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes the scale back."""
        self._scale = list(state["scale"])
