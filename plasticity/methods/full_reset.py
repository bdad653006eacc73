"""Full reset: a fresh agent for each task, the reference that never loses plasticity and never transfers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from isorl.plasticity.methods.base import PeriodicMethod
from isorl.plasticity.methods.registry import METHODS


@METHODS.register("full_reset")
@dataclass
class FullReset(PeriodicMethod):
    """theta <- a fresh draw of the initialisation, for every parameter.

    What else an agent remembers is decided by `switch`: its defaults clear the replay buffer and restart
    exploration at each switch; `switch.normalizer=reset` forgets the statistics of observations too.

    Attributes:
        every: 0 acts at each switch, which makes a fresh agent per task.
    """

    resets: ClassVar[str] = "all parameters and all moments; targets follow"

    @property
    def claims(self) -> frozenset[str]:
        """Claims all resets: this one would undo the others."""
        return frozenset({"when the head is drawn anew"})

    def act(self) -> None:
        """Draws everything anew."""
        self.learner.redraw([*(p for _, p in self.learner.parameters()), *self.learner.outside()])
