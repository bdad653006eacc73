"""Reperturbation (ITADN-Lab 2026, Representational Rank, Not Kernel Conditioning, Predicts Plasticity, a draft)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from isorl.plasticity.methods.base import PeriodicMethod, check
from isorl.plasticity.methods.learner import Learner
from isorl.plasticity.methods.registry import METHODS
from isorl.plasticity.methods.structure import CHAIN, check_separable, hidden_layers
from isorl.plasticity.methods.surgery import MOMENTS


@METHODS.register("reperturbation")
@dataclass
class Reperturbation(PeriodicMethod):
    """The fraction of units with the least mean |w| of incoming weights gets new ones, drawn from N(0, 2 / fan-in).

    At each act moments are multiplied by `moments`, too. With Muon, `method=[muon,reperturbation]`, it is the rival
    that a draft sets above AdamO. Outgoing weights and biases stay, so the function jumps: it is a perturbation, not
    the recycling of `redo`.

    Read in the draft's code (ITADN-Lab/PLAST, plast_resnet.py), where every layer of a CNN but the first and the head
    is treated, *at each task switch*, though the text speaks of a deficit of rank: `every` with `rank_drop` is that.
    Here the first layer is treated as well, for an MLP has few. Confound: Adam without it is the draft's baseline, and
    Adam with it is not shown; run `method=[reperturbation]` beside both. Its Muon is its own (momentum 0.9,
    steps of the size 3 lr); `muon` here is torch's.

    Attributes:
        fraction: of the units of a layer, in [0, 1]; at least one unit where it is above 0. 0.05 in the draft's code.
        moments: factor on the optimizer's moments, in [0, 1]. 0.3 in the draft's code.
        every: 0 acts at each switch, as in the draft's code.
    """

    fraction: float = 0.05
    moments: float = 0.3

    resets: ClassVar[str] = (
        "incoming weights of the units with the least mean |w|; a share 1 - moments of all moments"
    )
    relies_on: ClassVar[frozenset[str]] = frozenset({CHAIN})

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            self,
            fraction=0 <= self.fraction <= 1 or "between 0 and 1",
            moments=0 <= self.moments <= 1 or "between 0 and 1",
        )

    @property
    def claims(self) -> frozenset[str]:
        """Claims the units."""
        return frozenset({"which units are recycled"})

    def start(self, learner: Learner) -> None:
        """Finds the hidden layers."""
        super().start(learner)
        layers = hidden_layers(learner.networks)
        check_separable(layers, "reperturbation")
        self._weights = [layer.maker.weight for layer in layers]

    @torch.no_grad()
    def act(self) -> None:
        """Redraws incoming weights, and shrinks moments."""
        for weight in self._weights:
            count = max(1, int(len(weight) * self.fraction)) if self.fraction else 0
            units = weight.abs().flatten(1).mean(1).topk(count, largest=False).indices
            drawn = torch.randn((count, *weight.shape[1:]), generator=self.learner.generator)
            weight[units] = drawn.to(weight) * math.sqrt(2 / weight[0].numel())
        for state in self.learner.optimizer.state.values():
            for name in MOMENTS:
                if name in state:
                    state[name].mul_(self.moments)
        self.learner.sync_targets()
