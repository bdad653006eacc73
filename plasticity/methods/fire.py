"""FIRE (Han et al. 2026, Frobenius-Isometry Reinitialization, ICLR 2026, arXiv 2602.08040)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from isorl.plasticity.linalg import at_least_single
from isorl.plasticity.methods.base import PeriodicMethod, check
from isorl.plasticity.methods.learner import Learner
from isorl.plasticity.methods.registry import METHODS
from isorl.plasticity.methods.structure import CHAIN, hidden_layers


@METHODS.register("fire")
@dataclass
class Fire(PeriodicMethod):
    """W <- sqrt(O / I) U V^T for every hidden weight W = U S V^T (O, I); of a kernel, each tap, over their number.

    The polar factor U V^T is the nearest matrix with all singular values one, so what the network has learned moves
    as little as isometry allows; the paper's deviation from isometry is the metric `gram_deviation` here. Biases,
    heads and moments stay.

    Read in the authors' code (isaac7778/FIRE): the iteration, the scale and the kernels' taps. It differs in what it
    acts on: the Atari DQN there redraws *every linear layer* from the initialisation and takes the polar factor of
    convolutions alone, so that part of its effect is a reset's; the supervised code takes that of the head too. Here
    nothing is redrawn: `method=[fire,layer_reset]` is the public DQN's form, `head_reset` alone and
    `switch.optimizer=reset` are the controls. For MLPs of ReLU the scale differs from the sqrt 2 that keeps signals.

    Attributes:
        iterations: of Newton-Schulz from W / ||W||_F, at least 1. 10 in the authors' code: singular values below a
            fiftieth of the norm do not reach one.
        every: 0 acts at each switch, as in the paper.
    """

    iterations: int = 10

    resets: ClassVar[str] = "the singular values of hidden weights; moments stay; targets follow"
    relies_on: ClassVar[frozenset[str]] = frozenset({CHAIN})

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, iterations=self.iterations >= 1 or "at least 1")

    @property
    def claims(self) -> frozenset[str]:
        """Claims the scale of weights."""
        return frozenset({"the scale of hidden weights"})

    def start(self, learner: Learner) -> None:
        """Finds the hidden weights.

        Raises:
            ValueError: layers see to their singular values themselves.
        """
        super().start(learner)
        makers = [layer.maker for layer in hidden_layers(learner.networks)]
        if any(getattr(maker, "isometry", "soft") != "soft" for maker in makers):
            raise ValueError(
                "Method 'fire' sets singular values, which layers with isometry='projected' or 'hard' set themselves. "
                "Use isometry=none or soft."
            )
        self._weights = [maker.weight for maker in makers]

    @torch.no_grad()
    def act(self) -> None:
        """Replaces every hidden weight."""
        for weight in self._weights:
            weight.copy_(fire_weight(weight, self.iterations))
        self.learner.sync_targets()


def fire_weight(weight: Tensor, iterations: int) -> Tensor:
    """Returns sqrt(O / I) U V^T of a weight (O, I), or of each of the k taps of a kernel (O, I, ...), over k."""
    rows, columns = weight.shape[:2]
    taps = at_least_single(weight).reshape(rows, columns, -1).movedim(-1, 0)  # (k, O, I)
    factors = polar_factor(taps, iterations) * (math.sqrt(rows / columns) / len(taps))
    return factors.movedim(0, -1).reshape(weight.shape).to(weight.dtype)


def polar_factor(W: Tensor, iterations: int) -> Tensor:
    """Approximates U V^T of W = U S V^T (..., O, I) by X <- 1.5 X - 0.5 X X^T X from W / ||W||_F; 0 of a zero W."""
    X = W if W.shape[-2] <= W.shape[-1] else W.mT
    X = X / torch.linalg.vector_norm(X, dim=(-2, -1), keepdim=True).clamp(min=torch.finfo(X.dtype).tiny)
    for _ in range(iterations):
        X = 1.5 * X - 0.5 * (X @ X.mT) @ X
    return X if W.shape[-2] <= W.shape[-1] else X.mT
