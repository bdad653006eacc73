"""What plasticity methods add to the update of a pack: each run's own, on its own networks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from agents.pack.stack import Stack
from plasticity.methods import Batch, Method


class Terms:
    """The methods of the runs of `stack`."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        methods = [method for agent in stack.agents for method in agent.methods]
        self._adds = any(type(method).loss is not Method.loss for method in methods)
        self._acts = any(type(method).after_update is not Method.after_update for method in methods)

    def seen(self, inputs: np.ndarray) -> list[Batch]:
        """(S, B, I) -> what each run's methods see."""
        if not (self._adds or self._acts):
            return []
        return [Batch(partial(torch.from_numpy, row)) for row in inputs]

    def added(self, seen: Sequence[Batch]) -> Tensor | None:
        """What every run's methods add to its loss: (S,); None where they add nothing."""
        if not self._adds:
            return None
        zero = torch.zeros(())
        rows = zip(self.stack.agents, seen, strict=True)
        found = torch.stack([agent.methods.add_loss(zero, batch) for agent, batch in rows])
        return found if found.requires_grad else None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """On which the terms depend."""
        return self.stack.table.parameters if self._adds else []

    def after_update(self, seen: Sequence[Batch]) -> None:
        """Lets every run's methods act."""
        if not self._acts:
            return
        for agent, batch in zip(self.stack.agents, seen, strict=True):
            agent.methods.after_update(batch)
        if not self.stack.is_whole:
            self.stack.rebuild()
