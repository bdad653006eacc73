"""L2-init, regenerative regularisation (Kumar et al. 2023, Maintaining Plasticity via Regenerative Regularization)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from isorl.plasticity.methods.base import Method, check
from isorl.plasticity.methods.distance import squared_distance
from isorl.plasticity.methods.learner import Batch, Learner
from isorl.plasticity.methods.registry import METHODS
from isorl.plasticity.methods.structure import CHAIN


@METHODS.register("l2_init")
@dataclass
class L2Init(Method):
    """loss + strength * ||theta - theta_0||^2, theta_0 being the weights at the start of the run.

    Attributes:
        strength: at least 0. Kumar et al. sweep 1e-2 ... 1e-5; 1e-3 lies between.
    """

    strength: float = 1e-3

    relies_on: ClassVar[frozenset[str]] = frozenset({CHAIN})
    saved: ClassVar[tuple[str, ...]] = ("_initial",)

    def __post_init__(self) -> None:
        check(self, strength=self.strength >= 0 or "at least 0: a negative one would push weights away")

    def start(self, learner: Learner) -> None:
        """Remembers theta_0."""
        self._parameters = [parameter for _, parameter in learner.parameters()]
        self._initial = [parameter.detach().clone() for parameter in self._parameters]

    def loss(self, batch: Batch) -> Tensor:
        """Returns the term strength * ||theta - theta_0||^2."""
        return self.strength * squared_distance(self._parameters, self._initial)
