"""Parseval regularisation (Chung et al. 2024, Parseval Regularization for Continual RL, arXiv 2412.07224)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from isorl.plasticity.methods.base import Method, check
from isorl.plasticity.methods.learner import Batch, Learner
from isorl.plasticity.methods.registry import METHODS
from isorl.plasticity.methods.structure import CHAIN, hidden_layers
from isorl.plasticity.penalties import gram_penalty


@METHODS.register("parseval")
@dataclass
class Parseval(Method):
    """loss + strength * sum over hidden weights W (O, I) of ||W W^T - s I_O||_F^2.

    Always by the rows: where O > I it asks for more orthogonal rows than there can be, and is never zero;
    `gram` takes the smaller Gram matrix instead. Equal where O <= I.

    Attributes:
        strength: at least 0. 1e-3 in the released code for MetaWorld and the gridworld at width 64
            (1e-4 on CARL), multiplied there by (64 / width)^2.
        target: s, above 0. 2 in the released code.
    """

    strength: float = 1e-3
    target: float = 2.0

    relies_on: ClassVar[frozenset[str]] = frozenset({CHAIN})

    def __post_init__(self) -> None:
        check(
            self,
            strength=self.strength >= 0 or "at least 0: a negative one would push rows together",
            target=self.target > 0 or "above 0",
        )

    def start(self, learner: Learner) -> None:
        """Finds the hidden weights of all networks."""
        self._weights = [layer.maker.weight for layer in hidden_layers(learner.networks)]

    def loss(self, batch: Batch) -> Tensor:
        """Returns the term strength * sum ||W W^T - s I||_F^2."""
        penalties = [gram_penalty(weight, self.target, by_rows=True) for weight in self._weights]
        return self.strength * torch.stack(penalties).sum()
