"""The parameters of many runs as the rows of one tensor: each run keeps a view of its own row.

A run's numbers lie together, so that its norm, its clipping and its optimizer step are each one pass over one row, with
options of its own.

Shapes: S runs, C modules of one structure in each, P parameters of a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

VECTOR = 64
"""Numbers that a processor may take at once, or a multiple of them."""


class Unbatchable(Exception):
    """Why runs cannot be computed as one."""


@dataclass(frozen=True)
class Place:
    """Says where one parameter of C modules lies in a row.

    Attributes:
        owners: the parameters, run -> module.
        start: where the first module's numbers begin.
        size: how many numbers a module has.
        offset: where this parameter begins in its module.
    """

    owners: list[list[nn.Parameter]]
    start: int
    size: int
    offset: int

    def view(self, whole: Tensor) -> Tensor:
        """Views this parameter of all runs in a table: (S, P) -> (S, C, *shape)."""
        first, count = self.owners[0][0], len(self.owners[0])
        block = whole[:, self.start : self.start + count * self.size].unflatten(1, (count, self.size))
        return block[..., self.offset : self.offset + first.numel()].unflatten(-1, first.shape)


class ParameterTable:
    """Moves the parameters of S runs into one tensor.

    Args:
        blocks: block -> run -> modules, those of one block of one structure.

    Attributes:
        blocks: of each block, where its parameters lie.
        values: (S, P) all of them; what the modules hold are views of it.

    Raises:
        Unbatchable: modules of one block differ.
    """

    def __init__(self, blocks: Sequence[Sequence[Sequence[nn.Module]]]) -> None:
        self.blocks: list[list[Place]] = []
        self.runs, end = len(blocks[0]), 0
        for block in blocks:
            owners = [[list(module.parameters()) for module in modules] for modules in block]
            shapes = [parameter.shape for parameter in owners[0][0]]
            if any([p.shape for p in module] != shapes for modules in owners for module in modules):
                raise Unbatchable("their parameters have different shapes")
            size, offset, places = sum(shape.numel() for shape in shapes), 0, []
            for number, shape in enumerate(shapes):
                own = [[module[number] for module in modules] for modules in owners]
                places.append(Place(own, end, size, offset))
                offset += shape.numel()
            self.blocks.append(places)
            end += len(block[0]) * size
        # a whole number of vectors: a processor rounds what is left over from them differently, and what a run learns
        # would depend on how many others there are
        self._size = -(-end // VECTOR) * VECTOR
        self.values = self.zeros()
        for parameter, row in self.each(self.values):
            parameter.data = row.copy_(parameter.data)

    def zeros(self) -> Tensor:
        """Makes a table (S, P) of zeros."""
        return torch.zeros(self.runs, self._size)

    def views(self, whole: Tensor) -> list[list[Tensor]]:
        """Views every block's parameters in a table (S, P): (S, C, *shape) each."""
        return [[place.view(whole) for place in places] for places in self.blocks]

    def arrays(self, whole: Tensor) -> list[list[np.ndarray]]:
        """Does what `views` does, as arrays."""
        return [[view.detach().numpy() for view in block] for block in self.views(whole)]

    def each(self, whole: Tensor) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Yields every parameter of every run with its part of a table (S, P)."""
        for places in self.blocks:
            for place in places:
                for parameters, row in zip(place.owners, place.view(whole).unbind(), strict=True):
                    yield from zip(parameters, row.unbind(), strict=True)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters of all runs."""
        return [parameter for parameter, _ in self.each(self.values)]
