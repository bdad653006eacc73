"""Tuned Adam betas (Dohare et al. 2023, Overcoming Policy Collapse in Deep RL; Lyle et al. 2023, arXiv 2303.01486)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.optim import Adam, Optimizer

from isorl.plasticity.methods.base import Method, check
from isorl.plasticity.methods.registry import METHODS


@METHODS.register("adam_betas")
@dataclass
class AdamBetas(Method):
    """Adam with beta_1 = beta_2, so that a sudden large gradient cannot outrun its own second moment.

    Attributes:
        beta: both of them, in [0, 1). 0.99 in the released configurations of Dohare et al. 2024.
    """

    beta: float = 0.99

    def __post_init__(self) -> None:
        check(self, beta=0 <= self.beta < 1 or "at least 0 and below 1")

    def optimizer(
        self, cls: type[Optimizer], options: dict[str, Any]
    ) -> tuple[type[Optimizer], dict[str, Any]]:
        """Returns the same Adam with other betas."""
        if not issubclass(cls, Adam):
            raise ValueError(
                f"Method 'adam_betas' sets betas of Adam, but the optimizer is {cls.__name__}, which another method "
                "or optimizer=... chose. Leave one out."
            )
        return cls, {**options, "betas": (self.beta, self.beta)}
