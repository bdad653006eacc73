"""Replacing single units: new incoming weights, no outgoing ones, and an optimizer that knows nothing of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from isorl.plasticity.methods.base import Method
from isorl.plasticity.methods.learner import Batch, Learner
from isorl.plasticity.methods.structure import (
    CHAIN,
    HiddenLayer,
    check_separable,
    hidden_layers,
    unit_outputs,
)
from isorl.plasticity.methods.surgery import edit


class RecyclingMethod(Method):
    """Is the base of methods that replace single units; two of them would take each other's fresh ones."""

    relies_on: ClassVar[frozenset[str]] = frozenset({CHAIN})

    @property
    def claims(self) -> frozenset[str]:
        """Claims the units."""
        return frozenset({"which units are recycled"})

    def start(self, learner: Learner) -> None:
        """Finds the hidden layers."""
        self._recycler = Recycler(learner, type(self).__module__.rpartition(".")[2])

    def state_dict(self) -> dict[str, Any]:
        """Returns what is named in `saved`, and the scale of fresh weights."""
        return {**super().state_dict(), "bounds": list(self._recycler.bounds)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        super().load_state_dict(state)
        self._recycler.bounds = list(state["bounds"])


class Recycler:
    """Replaces units of the hidden layers of a learner, actor's and critic's alike.

    Incoming weights are drawn uniformly with the standard deviation of the layer's initial weights, which for
    torch's default initialisation is that very distribution.
    """

    def __init__(self, learner: Learner, method: str) -> None:
        self.learner = learner
        self.layers = hidden_layers(learner.networks)
        check_separable(self.layers, method)
        self.bounds = [math.sqrt(3) * float(layer.maker.weight.detach().std()) for layer in self.layers]

    def outputs(self, batch: Batch) -> list[Tensor]:
        """Returns the outputs (S, U) of each hidden layer for a minibatch, with the updated weights."""
        return unit_outputs(self.learner.networks, self.layers, batch.inputs)

    @torch.no_grad()
    def recycle(self, index: int, units: Tensor) -> None:
        """Replaces `units` (k,), numbers of units of the layer `index`.

        Where a unit's output was zero the function is what it was before, unless a norm layer mixes the units.
        """
        layer, optimizer = self.layers[index], self.learner.optimizer
        weight = layer.maker.weight
        rows = self._fresh(index, len(units))

        def redraw(tensor: Tensor, is_weight: bool) -> None:
            tensor.index_copy_(0, units, rows if is_weight else torch.zeros_like(rows))

        edit(optimizer, weight, redraw)
        for parameter, initial in _vectors(layer):
            edit(optimizer, parameter, partial(_fill_units, units=units, value=initial))
        for reader in layer.readers:
            edit(optimizer, reader.weight, lambda t, _: layer.columns(t).index_fill_(2, units, 0))

    @torch.no_grad()
    def blend(self, index: int, share: Tensor) -> None:
        """Replaces of each unit a `share` (U,) of its incoming weights by fresh ones, of its outgoing ones by none."""
        layer = self.layers[index]
        weight = layer.maker.weight
        weight.lerp_(self._fresh(index, layer.units), share.view(-1, *[1] * (weight.ndim - 1)))
        for reader in layer.readers:
            layer.columns(reader.weight).mul_(1 - share[:, None])

    def _fresh(self, index: int, count: int) -> Tensor:
        """Draws the incoming weights of `count` units."""
        weight = self.layers[index].maker.weight
        drawn = torch.rand((count, *weight.shape[1:]), generator=self.learner.generator)
        return ((2 * drawn - 1) * self.bounds[index]).to(weight)


def _fill_units(tensor: Tensor, is_weight: bool, units: Tensor, value: float) -> None:
    tensor.index_fill_(0, units, value if is_weight else 0)


def _vectors(layer: HiddenLayer) -> list[tuple[Tensor, float]]:
    """Parameters with one number per unit, and their initial value."""
    found = [(layer.maker.bias, 0.0)] if layer.maker.bias is not None else []
    if layer.norm is not None:
        found += [(layer.norm.weight, 1.0), (layer.norm.bias, 0.0)]
    return found
