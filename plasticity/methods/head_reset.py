"""Head reset (Nikishin et al. 2022, The Primacy Bias in Deep RL, arXiv 2205.07802, for its last layer alone).

The control of every study of plasticity in reinforcement learning: what it recovers was lost by the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from isorl.plasticity.methods.base import PeriodicMethod
from isorl.plasticity.methods.registry import METHODS
from isorl.plasticity.methods.structure import head


@METHODS.register("head_reset")
@dataclass
class HeadReset(PeriodicMethod):
    """head <- a fresh draw of the initialisation, in every network, target too; the body stays.

    Attributes:
        every: 0 acts at each switch, the control; Nikishin et al. act every 1e5 to 2e5 steps.
    """

    resets: ClassVar[str] = "last layers, the spread of Gaussian actions, their moments; targets follow"

    @property
    def claims(self) -> frozenset[str]:
        """Claims the head: other resets would draw it a second time."""
        return frozenset({"when the head is drawn anew"})

    def act(self) -> None:
        """Draws the heads anew."""
        heads = [head(network) for network in self.learner.networks.values()]
        parameters = [parameter for layer in heads for parameter in layer.parameters()]
        self.learner.redraw([*parameters, *self.learner.outside()])
