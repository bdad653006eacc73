"""L2-ER (Prakash et al. 2026, Spectral Collapse Drives Loss of Plasticity in Deep CL, ICML 2026, arXiv 2509.22335)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from isorl.plasticity.methods.base import FirstEffect, Method, check
from isorl.plasticity.methods.distance import squared_distance
from isorl.plasticity.methods.learner import Batch, Learner
from isorl.plasticity.methods.registry import METHODS
from isorl.plasticity.methods.structure import CHAIN, HiddenLayer, hidden_layers, layer_outputs


@METHODS.register("l2_er")
@dataclass
class L2ER(Method):
    """loss + weight_decay / 2 * ||theta||^2; every N updates theta <- theta + rank_rate * grad mean_l erank(H_l).

    erank(H) = exp H(sigma / sum sigma) of the singular values of H (B, U), what the units of a layer give for the
    minibatch; l runs over the last two linear hidden layers of each network. The step along its gradient is plain
    ascent, apart from the optimizer and its moments, as in the authors' code (KevinGuo27/lop-jax), which takes it
    before N minibatches, on all of them together; here it comes after the N-th update, on its minibatch.

    Confounds: the two parts act apart, and L2 alone is the method `l2` (whose strength is half this weight decay);
    effective rank grows with the minibatch, so that rates do not carry over from one size to another.

    Attributes:
        weight_decay: at least 0. 1e-3, the largest of the authors' sweeps and the one they ran with PPO.
        rank_rate: of the step, at least 0. 1e-4, which the authors ran on ImageNet, and 1e-6 with PPO.
        every: N, at least 1. 12, the authors' er_batch on ImageNet.
    """

    weight_decay: float = 1e-3
    rank_rate: float = 1e-4
    every: int = 12

    relies_on: ClassVar[frozenset[str]] = frozenset({CHAIN})
    saved: ClassVar[tuple[str, ...]] = ("_updates",)

    def __post_init__(self) -> None:
        check(
            self,
            weight_decay=self.weight_decay >= 0 or "at least 0: a negative one would let weights explode",
            rank_rate=self.rank_rate >= 0 or "at least 0: a negative one would lower the rank",
            every=self.every >= 1 or "at least 1",
        )

    def start(self, learner: Learner) -> None:
        """Finds the last two linear hidden layers of each network.

        Raises:
            ValueError: a network has none.
        """
        self._networks = learner.networks
        self._parameters = [parameter for _, parameter in learner.parameters()]
        found: dict[int, HiddenLayer] = {}
        for name, network in learner.networks.items():
            linear = [layer for layer in hidden_layers({name: network}) if isinstance(layer.maker, nn.Linear)]
            if not linear:
                raise ValueError(f"Method 'l2_er' needs a hidden layer, and network '{name}' has none.")
            found |= {id(layer.maker): layer for layer in linear[-2:]}
        self._layers = list(found.values())
        self._updates = 0

    def first_effect(self) -> FirstEffect:
        """Returns the first update, or the N-th without weight decay."""
        return FirstEffect(update=1 if self.weight_decay else self.every)

    def loss(self, batch: Batch) -> Tensor:
        """Returns the term weight_decay / 2 * ||theta||^2."""
        return self.weight_decay / 2 * squared_distance(self._parameters)

    def after_update(self, batch: Batch) -> None:
        """Climbs the effective rank at every N-th update."""
        self._updates += 1
        if self._updates % self.every or not self.rank_rate:
            return
        with torch.enable_grad():
            outputs = layer_outputs(self._networks, self._layers, batch.inputs)
            rank = torch.stack([effective_rank(h) for h in outputs]).mean()
            gradients = torch.autograd.grad(rank, self._parameters, allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(self._parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.add_(gradient, alpha=self.rank_rate)


def effective_rank(H: Tensor) -> Tensor:
    """Returns exp H(sigma / sum sigma) of the singular values of H (B, U), 0-d and differentiable; 1 of a zero H."""
    sigma = torch.linalg.svdvals(H)
    p = sigma / sigma.sum().clamp(min=1e-8)
    return torch.exp(-(p * torch.log(p + 1e-8)).sum())
