"""The projected form of isometric layers: Newton-Schulz after every optimizer step."""

from __future__ import annotations

from torch import nn

from plasticity.methods.base import Learner, Method


class Projection(Method):
    """Keeps the layers that were built with isometry="projected" on the orthogonal manifold."""

    def start(self, learner: Learner) -> None:
        """Remembers the networks."""
        self._networks = nn.ModuleList(learner.networks.values())

    def after_update(self) -> None:
        """One projection."""
        from plasticity.networks import project_

        project_(self._networks)
