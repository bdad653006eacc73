"""Layers that are brought back after every optimizer step: isometric and unit-norm ones. Not an option of its own."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from isorl.plasticity.methods.base import Boundary, Method
from isorl.plasticity.methods.learner import Batch, Learner
from isorl.plasticity.networks import project_


@dataclass
class Projection(Method):
    """Keeps layers with isometry="projected" on the orthogonal manifold, and those of SimbaV2 on the sphere."""

    @property
    def boundary(self) -> Boundary:
        """Returns "agnostic": at a switch it follows what others do."""
        return "agnostic"

    def start(self, learner: Learner) -> None:
        """Remembers the networks, targets too."""
        self._networks = nn.ModuleList(learner.networks.values())
        self._targets = nn.ModuleList(learner.targets.values())

    def after_update(self, batch: Batch) -> None:
        """Projects once."""
        project_(self._networks)

    def on_switch(self) -> None:
        """Projects what other methods have moved, before anything is collected with it."""
        project_(self._networks)
        project_(self._targets)
