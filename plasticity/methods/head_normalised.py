"""Max-norm constraint (Srebro and Shraibman 2005, Rank, Trace-Norm and Max-Norm) on the rows of output heads alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from isorl.plasticity.methods.base import Method, check
from isorl.plasticity.methods.learner import Batch, Learner
from isorl.plasticity.methods.registry import METHODS
from isorl.plasticity.methods.structure import CHAIN, head


@METHODS.register("head_normalised")
@dataclass
class HeadNormalised(Method):
    """w <- w min(1, max_norm / ||w||) for every row w of every output head, after each update.

    An output then moves by at most max_norm per unit of change of the features, however long it learns; biases are
    free. With an isometric body, whose features do not grow, it bounds how certain a policy can become. Values whose
    spread exceeds what that leaves cannot be fitted: raise max_norm, or normalise rewards.

    Attributes:
        max_norm: above 0. 3, ours; rows start at 0.01 (actor of PPO), 0.6 (Q) and 1 (critic, classifier).
    """

    max_norm: float = 3.0

    relies_on: ClassVar[frozenset[str]] = frozenset({CHAIN})

    def __post_init__(self) -> None:
        check(self, max_norm=self.max_norm > 0 or "above 0: the largest norm of a row of a head")

    def start(self, learner: Learner) -> None:
        """Remembers the heads."""
        self._weights = [head(network).weight for network in learner.networks.values()]

    @torch.no_grad()
    def after_update(self, batch: Batch) -> None:
        """Scales down the rows that have become too long."""
        for weight in self._weights:
            norms = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
            weight.mul_((self.max_norm / norms).clamp(max=1.0))  # a row of zeros stays: inf is clamped
