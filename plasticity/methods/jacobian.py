"""Jacobian penalty (Rosseau, Müller and Nowé 2026, arXiv 2606.09762, the form of its abstract, on the batch)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from isorl.plasticity.methods.base import Method, check
from isorl.plasticity.methods.learner import Batch, Learner
from isorl.plasticity.methods.registry import METHODS
from isorl.plasticity.methods.structure import CHAIN, hidden_layers
from isorl.plasticity.penalties import jacobian_penalty


@METHODS.register("jacobian")
@dataclass
class Jacobian(Method):
    """loss + strength * mean over hidden layers and samples of (sigma_i(J) - 1)^2, J = diag(activation') W.

    Attributes:
        strength: at least 0. 1e-2, ours: the term is a mean, so it is smaller than the Gram penalty's sum.
        projections: 0 takes all singular values; P random projections per sample estimate the mean of
            (sigma^2 - 1)^2 / 4 instead. 4, ours.
        samples: the term looks at this many samples of the minibatch. 16, ours.
    """

    strength: float = 1e-2
    projections: int = 4
    samples: int = 16

    relies_on: ClassVar[frozenset[str]] = frozenset({CHAIN})

    def __post_init__(self) -> None:
        check(
            self,
            strength=self.strength >= 0 or "at least 0: a negative one would push layers from isometry",
            projections=self.projections >= 0 or "at least 0",
            samples=self.samples >= 1 or "at least 1",
        )

    def start(self, learner: Learner) -> None:
        """Remembers the networks; refuses layers whose Jacobian is not diag(d) W."""
        self._learner = learner
        for layer in hidden_layers(learner.networks):
            if layer.copies > 1:
                raise ValueError(
                    f"Method 'jacobian' needs one output per unit, but {type(layer.activation).__name__} of "
                    f"layer {layer.name} gives {layer.copies}. Use method=gram, which looks at weights alone."
                )

    def loss(self, batch: Batch) -> Tensor:
        """Returns the term, over the networks in turn; a shared body counts in each."""
        inputs, generator = batch.inputs[: self.samples], self._generator(batch.inputs.device)
        terms = [
            jacobian_penalty(network, inputs, self.projections or None, generator)
            for network in self._learner.networks.values()
        ]
        return self.strength * torch.stack(terms).mean()

    def _generator(self, device: torch.device) -> torch.Generator:
        """Of fresh projections for this update, by the learner's stream, which a resumed run takes up."""
        seed = torch.randint(2**31, (), generator=self._learner.generator)
        return torch.Generator(device).manual_seed(int(seed))
