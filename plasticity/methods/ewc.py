"""EWC, elastic weight consolidation (Kirkpatrick et al. 2017, 1612.00796), online (Schwarz et al. 2018, 1805.06370)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from isorl.plasticity.diagnostics.undisturbed import undisturbed
from isorl.plasticity.methods.base import FirstEffect, Method, check
from isorl.plasticity.methods.learner import Batch, Learner
from isorl.plasticity.methods.registry import METHODS
from isorl.plasticity.methods.structure import CHAIN
from isorl.plasticity.networks import masked

HELD = 2**24
"""Numbers in the gradients of single samples that are held at once."""


@METHODS.register("ewc")
@dataclass
class EWC(Method):
    """loss + strength / 2 * sum_i F_i (theta_i - theta*_i)^2, from the first switch on.

    At each switch theta* becomes theta and F becomes decay * F + diag E_x E_{y ~ softmax f(x)} (grad log p(y | x))^2,
    the Fisher information of the task that ends: over its last `samples` inputs, with the expectation over y
    computed in full. One anchor for all earlier tasks, as in the online form, so memory does not grow.

    Attributes:
        strength: lambda, at least 0. 1e3, ours; it goes with the mean over samples, and papers rarely agree on it.
        decay: gamma, between 0 and 1. 1: earlier tasks count as much as the last.
        samples: at least 1. 256, ours.
    """

    strength: float = 1e3
    decay: float = 1.0
    samples: int = 256

    needs_labels: ClassVar[bool] = True
    relies_on: ClassVar[frozenset[str]] = frozenset({CHAIN})
    saved: ClassVar[tuple[str, ...]] = ("_fisher", "_anchor", "_recent", "_allowed")

    def __post_init__(self) -> None:
        check(
            self,
            strength=self.strength >= 0 or "at least 0: a negative one would push weights away",
            decay=0 <= self.decay <= 1 or "between 0 and 1",
            samples=self.samples >= 1 or "at least 1",
        )

    def start(self, learner: Learner) -> None:
        """Begins with nothing to consolidate."""
        self._network = learner.networks["classifier"]
        self._fisher: dict[str, Tensor] = {}
        self._anchor: dict[str, Tensor] = {}
        self._recent: list[Tensor] = []  # batches of inputs, the newest last
        self._allowed: Tensor | None = None

    def first_effect(self) -> FirstEffect:
        """Returns the first switch: before it there is nothing to hold on to."""
        return FirstEffect(switch=1)

    def loss(self, batch: Batch) -> Tensor | None:
        """Returns the term, once a task has ended."""
        if not self._anchor:
            return None
        weights = dict(self._network.named_parameters())
        pulls = [
            (self._fisher[name] * (weights[name] - theta).square()).sum()
            for name, theta in self._anchor.items()
        ]
        return self.strength / 2 * torch.stack(pulls).sum()

    def after_update(self, batch: Batch) -> None:
        """Remembers the newest inputs."""
        self._recent.append(batch.inputs.detach())
        self._allowed = batch.allowed
        while sum(map(len, self._recent[1:])) >= self.samples:
            del self._recent[0]

    def on_switch(self) -> None:
        """Consolidates what the ended task has taught."""
        if not self._recent:
            return
        inputs = torch.cat(self._recent)[-self.samples :]
        with undisturbed(
            self._network, inputs.device, grad=True
        ):  # a power iteration goes on in training mode
            found = fisher_diagonal(self._network, inputs, self._allowed)
        for name, information in found.items():
            self._fisher[name] = self.decay * self._fisher.get(name, torch.zeros(())) + information
        self._anchor = {name: theta.detach().clone() for name, theta in self._network.named_parameters()}
        self._recent = []


def fisher_diagonal(network: nn.Module, inputs: Tensor, allowed: Tensor | None = None) -> dict[str, Tensor]:
    """Returns the diagonal of the Fisher information of p(y | x) = softmax f(x), by parameter name.

    The mean over `inputs` (B, ...) of sum_y p(y | x) (d log p(y | x) / d theta)^2; classes that `allowed` (C,) does
    not hold are left out.
    """
    theta = {name: parameter.detach() for name, parameter in network.named_parameters()}
    with torch.no_grad():
        probabilities = masked(network(inputs), allowed).softmax(dim=1)  # (B, C)

    def log_likelihood(theta: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        logits = masked(functional_call(network, theta, (x[None],)), allowed)[0]
        return logits.log_softmax(0).gather(0, y[None])[0]

    of_pairs = vmap(grad(log_likelihood), in_dims=(None, 0, 0))
    total = {name: torch.zeros_like(weight) for name, weight in theta.items()}
    at_once = max(1, HELD // sum(weight.numel() for weight in theta.values()))
    pairs = probabilities.nonzero()  # (P, 2): sample, class
    for samples, classes in (pairs_at_once.T for pairs_at_once in pairs.split(at_once)):
        p = probabilities[samples, classes]
        for name, gradient in of_pairs(theta, inputs[samples], classes).items():
            total[name] += torch.einsum("p,p...->...", p, gradient.square())
    return {name: value / len(inputs) for name, value in total.items()}
