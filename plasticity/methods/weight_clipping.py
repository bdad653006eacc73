"""Weight clipping (Elsayed et al. 2024, Weight Clipping for Deep Continual and RL, arXiv 2407.01704)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from isorl.plasticity.methods.base import Method, check
from isorl.plasticity.methods.learner import Batch, Learner
from isorl.plasticity.methods.registry import METHODS
from isorl.plasticity.methods.structure import CHAIN, WEIGHTED


@METHODS.register("weight_clipping")
@dataclass
class WeightClipping(Method):
    """theta <- clip(theta, -scale / sqrt(fan-in), scale / sqrt(fan-in)) after each update, for weights and biases.

    1 / sqrt(fan-in) bounds torch's default initialisation. Heads are clipped, too; norm layers and the spread of
    Gaussian actions are not.

    Read in the authors' code (mohmdelsayed/weight-clipping): the bounds, that moments stay, and the scale of their
    PPO. Confound: an orthogonal initialisation with a gain has larger entries than torch's, so that the first update
    clips some: with scale 3, width 64 and gain sqrt 2 about 3 %; a scale of 1 would clip half.

    Attributes:
        scale: kappa, above 0. 3, the authors' PPO.
    """

    scale: float = 3.0

    relies_on: ClassVar[frozenset[str]] = frozenset({CHAIN})

    def __post_init__(self) -> None:
        check(self, scale=self.scale > 0 or "above 0: at 0 every weight would be 0")

    def start(self, learner: Learner) -> None:
        """Finds weights and biases with their bounds."""
        modules = {id(m): m for network in learner.networks.values() for m in network.modules()}.values()
        self._bounded = [
            (parameter, self.scale / math.sqrt(module.weight[0].numel()))
            for module in modules
            if isinstance(module, WEIGHTED)
            for parameter in module.parameters(recurse=False)
        ]

    @torch.no_grad()
    def after_update(self, batch: Batch) -> None:
        """Clips."""
        for parameter, bound in self._bounded:
            parameter.clamp_(-bound, bound)
