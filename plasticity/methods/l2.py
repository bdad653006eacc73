"""L2 regularisation and decoupled weight decay (Krogh and Hertz 1991; Loshchilov and Hutter 2019, arXiv 1711.05101)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

from isorl.plasticity.adamo import AdamO
from isorl.plasticity.methods.base import Method, check
from isorl.plasticity.methods.distance import squared_distance
from isorl.plasticity.methods.learner import Batch, Learner
from isorl.plasticity.methods.registry import METHODS
from isorl.plasticity.methods.structure import CHAIN


@METHODS.register("l2")
@dataclass
class L2(Method):
    """loss + strength * ||theta||^2, or decoupled: theta <- (1 - lr * strength) theta before Adam's step.

    The coupled gradient is 2 * strength * theta, so torch's coupled `weight_decay` is twice this strength.

    Attributes:
        strength: at least 0. 1e-3 is the coupled value of Dohare et al. 2024; torch's AdamW decays with 1e-2.
        decoupled: AdamW's form, which Adam's moments do not see.
    """

    strength: float = 1e-3
    decoupled: bool = False

    relies_on: ClassVar[frozenset[str]] = frozenset({CHAIN})

    def __post_init__(self) -> None:
        check(self, strength=self.strength >= 0 or "at least 0: a negative one would let weights explode")

    def optimizer(
        self, cls: type[Optimizer], options: dict[str, Any]
    ) -> tuple[type[Optimizer], dict[str, Any]]:
        """Returns AdamW, or AdamO with AdamW's decay, where the decay is decoupled."""
        if not self.decoupled:
            return cls, options
        if options.get("weight_decay"):
            raise ValueError(
                "Method 'l2' with decoupled=true and the optimizer's weight_decay are the same thing; set one of them."
            )
        if cls is Adam:
            return AdamW, {**options, "weight_decay": self.strength}
        if issubclass(cls, AdamO):
            return cls, {**options, "weight_decay": self.strength, "decoupled_weight_decay": True}
        raise ValueError(
            f"Method 'l2' with decoupled=true turns Adam into AdamW, but the optimizer is {cls.__name__}."
        )

    def start(self, learner: Learner) -> None:
        """Remembers theta."""
        self._parameters = [parameter for _, parameter in learner.parameters()]

    def loss(self, batch: Batch) -> Tensor | None:
        """Returns the term strength * ||theta||^2."""
        if self.decoupled:
            return None
        return self.strength * squared_distance(self._parameters)
