"""The parameters of many runs as the rows of one tensor: each run keeps a view of its own row.

A run's numbers lie together, so that its norm, its clipping and its optimizer step are each one pass over one row, with
options of its own.

Shapes: S runs, P parameters of a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

VECTOR = 64
"""Numbers that a processor may take at once, or a multiple of them."""


class Unbatchable(Exception):
    """Why runs cannot be computed as one."""


class ParameterTable:
    """Moves the parameters of S runs into one tensor.

    Args:
        owners: run -> parameters, of the same shapes in each.

    Attributes:
        values: (S, P) all of them; the parameters' data are views of it.
        size: how many numbers of P a run has; what follows is nothing.
    """

    def __init__(self, owners: Sequence[Sequence[nn.Parameter]]) -> None:
        self.owners = owners
        self._shapes = [parameter.shape for parameter in owners[0]]
        self.size = sum(shape.numel() for shape in self._shapes)
        self.values = self.zeros()
        for parameter, own in self.each(self.values):
            parameter.data = own.copy_(parameter.data)

    def zeros(self) -> Tensor:
        """Makes a table (S, P) of zeros."""
        # a whole number of vectors: a processor rounds what is left over from them differently, and what a run learns
        # would depend on how many others there are
        return torch.zeros(len(self.owners), -(-self.size // VECTOR) * VECTOR)

    def views(self, whole: Tensor) -> list[Tensor]:
        """Views every parameter of all runs in a table (S, P): (S, *shape) each."""
        parts = whole[:, : self.size].split([shape.numel() for shape in self._shapes], 1)
        return [part.view(len(part), *shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def each(self, whole: Tensor) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Yields every parameter of every run with its part of a table (S, P)."""
        views = self.views(whole)
        for run, own in enumerate(self.owners):
            yield from zip(own, (view[run] for view in views), strict=True)
