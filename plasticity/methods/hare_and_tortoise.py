"""Hare and Tortoise (Lee et al. 2024, Slow and Steady Wins the Race, ICML 2024, arXiv 2406.02596)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from isorl.plasticity.methods.base import FirstEffect, Method, check
from isorl.plasticity.methods.learner import Batch, Learner
from isorl.plasticity.methods.registry import METHODS
from isorl.plasticity.methods.structure import CHAIN


@METHODS.register("hare_and_tortoise")
@dataclass
class HareAndTortoise(Method):
    """slow <- momentum slow + (1 - momentum) theta at each update; theta <- slow at every N-th.

    The network that learns, the hare, falls back now and then to the average of where it was, the tortoise. Moments
    stay; targets follow at their own pace.

    Read in the authors' code (dojeon-ai/Hare-Tortoise): average, reset, and that moments stay. There the tortoise is
    what is evaluated, and the hare learns for epochs of a data set; here the hare acts, is evaluated and learns, so
    that the tortoise is felt through the resets alone. N belongs with the momentum: an average over 1 / (1 - momentum)
    updates, reset to much more often, holds the network still.

    Attributes:
        momentum: of the average, in [0, 1]. 0.999, the authors' code.
        every: N, at least 1. 2000, ours: twice the span of the average; the authors' code has 10 epochs.
    """

    momentum: float = 0.999
    every: int = 2000

    resets: ClassVar[str] = "all weights, to their average; moments stay"
    relies_on: ClassVar[frozenset[str]] = frozenset({CHAIN})
    saved: ClassVar[tuple[str, ...]] = ("_updates", "_slow")

    def __post_init__(self) -> None:
        check(
            self,
            momentum=0 <= self.momentum <= 1 or "between 0 and 1",
            every=self.every >= 1 or "at least 1",
        )

    def start(self, learner: Learner) -> None:
        """Puts the tortoise where the hare is."""
        self._parameters: list[Tensor] = [
            *(parameter for _, parameter in learner.parameters()),
            *learner.outside(),
        ]
        self._slow = [parameter.detach().clone() for parameter in self._parameters]
        self._updates = 0

    def first_effect(self) -> FirstEffect:
        """Returns the N-th update."""
        return FirstEffect(update=self.every)

    @torch.no_grad()
    def after_update(self, batch: Batch) -> None:
        """Moves the tortoise, and the hare to it at every N-th update."""
        self._updates += 1
        torch._foreach_lerp_(self._slow, self._parameters, 1 - self.momentum)
        if self._updates % self.every == 0:
            torch._foreach_copy_(self._parameters, self._slow)
