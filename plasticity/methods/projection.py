"""Layers that are brought back after every optimizer step: isometric and unit-norm ones. Not an option of its own."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from isorl.plasticity.methods.base import Method
from isorl.plasticity.methods.learner import Batch, Learner
from isorl.plasticity.networks import project_


@dataclass
class Projection(Method):
    """Keeps layers with isometry="projected" on the orthogonal manifold, and those of SimbaV2 on the sphere."""

    def start(self, learner: Learner) -> None:
        """Remembers the networks."""
        self._networks = nn.ModuleList(learner.networks.values())

    def after_update(self, batch: Batch) -> None:
        """Projects once."""
        project_(self._networks)
