"""Layer reset (Nikishin et al. 2022, The Primacy Bias in Deep Reinforcement Learning, arXiv 2205.07802)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from isorl.plasticity.methods.base import PeriodicMethod, check
from isorl.plasticity.methods.learner import Learner
from isorl.plasticity.methods.registry import METHODS
from isorl.plasticity.methods.structure import NORMS, WEIGHTED, check_chain, leaves


@METHODS.register("layer_reset")
@dataclass
class LayerReset(PeriodicMethod):
    """theta_l <- a fresh draw of the initialisation, for the last n layers l of every network.

    Attributes:
        layers: n, at least 1; more than a network has resets all of it. 2, ours: Nikishin et al. reset 1 layer
            of SPR, 3 of DrQ, all of SAC.
        every: 0 acts at each switch; Nikishin et al. act every 1e5 to 2e5 steps.
    """

    layers: int = 2

    resets: ClassVar[str] = "the last n layers with their norms, their moments; targets follow"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, layers=self.layers >= 1 or "at least 1")

    def start(self, learner: Learner) -> None:
        """Refuses networks whose last layers are not in a chain."""
        super().start(learner)
        for network in learner.networks.values():
            check_chain(network)

    @property
    def claims(self) -> frozenset[str]:
        """Claims the head: other resets would draw it a second time."""
        return frozenset({"when the head is drawn anew"})

    def act(self) -> None:
        """Draws the layers anew."""
        last = [self._last(network) for network in self.learner.networks.values()]
        parameters = {id(p): p for modules in last for module in modules for p in module.parameters()}
        self.learner.redraw([*parameters.values(), *self.learner.outside()])

    def _last(self, network: nn.Sequential) -> list[nn.Module]:
        """Everything with parameters from the n-th last weight on; norms belong to the weight before them."""
        modules: list[nn.Module] = [
            m for _, m in leaves(network) if isinstance(m, WEIGHTED + NORMS + (nn.PReLU,))
        ]
        weights = [i for i, module in enumerate(modules) if isinstance(module, WEIGHTED)]
        return modules[weights[-min(self.layers, len(weights))] :]
