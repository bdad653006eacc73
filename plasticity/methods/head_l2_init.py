"""L2-init of the output heads alone (Kumar et al. 2023, Maintaining Plasticity via Regenerative Regularization)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from isorl.plasticity.methods.base import Method, check
from isorl.plasticity.methods.distance import squared_distance
from isorl.plasticity.methods.learner import Batch, Learner
from isorl.plasticity.methods.registry import METHODS
from isorl.plasticity.methods.structure import CHAIN, head


@METHODS.register("head_l2_init")
@dataclass
class HeadL2Init(Method):
    """loss + strength * sum over output heads of ||theta - theta_0||^2, weights and biases; the bodies are free.

    Isometry leaves heads free, and with PPO it is they that fail first: they grow until a policy is certain and wrong.

    Attributes:
        strength: at least 0. 1e-3, that of l2_init.
    """

    strength: float = 1e-3

    relies_on: ClassVar[frozenset[str]] = frozenset({CHAIN})
    saved: ClassVar[tuple[str, ...]] = ("_initial",)

    def __post_init__(self) -> None:
        check(self, strength=self.strength >= 0 or "at least 0: a negative one would push weights away")

    def start(self, learner: Learner) -> None:
        """Remembers theta_0."""
        self._parameters = [p for network in learner.networks.values() for p in head(network).parameters()]
        self._initial = [parameter.detach().clone() for parameter in self._parameters]

    def loss(self, batch: Batch) -> Tensor:
        """Returns the term strength * sum ||theta - theta_0||^2."""
        return self.strength * squared_distance(self._parameters, self._initial)
