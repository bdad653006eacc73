"""Continual backprop (Dohare et al. 2024, Loss of Plasticity in Deep Continual Learning, Nature 632)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from isorl.plasticity.methods.base import FirstEffect, check
from isorl.plasticity.methods.learner import Batch, Learner
from isorl.plasticity.methods.recycling import RecyclingMethod
from isorl.plasticity.methods.registry import METHODS
from isorl.plasticity.methods.structure import HiddenLayer


@METHODS.register("continual_backprop")
@dataclass
class ContinualBackprop(RecyclingMethod):
    """Replaces, in every hidden layer, the least useful of its e units that are older than `maturity`.

        u_i <- decay u_i + (1 - decay) E|h_i| sum_k |w_ki|      f_i <- decay f_i + (1 - decay) E h_i
        c <- c + replacement_rate e;  the floor(c) of them with least u_i / (1 - decay^age_i) are replaced

    A replaced unit hands its mean output to the biases of its readers, b_k += w_ki f_i / (1 - decay^age_i); where it
    has several (CReLU), each by its own weight.

    Confound: the authors' Adam counts steps per weight and begins anew with a replaced one; here the count is the
    tensor's, so that new weights take steps of up to 6.6 learning rates at first; see `surgery.edit`.

    Attributes:
        replacement_rate: share of the mature units replaced per update, in [0, 1]. 1e-4, released RL configuration.
        maturity: updates before a unit can be replaced. 10,000, released RL configuration.
        decay: of the running means, in [0, 1). 0.99, released code.
    """

    replacement_rate: float = 1e-4
    maturity: int = 10_000
    decay: float = 0.99

    resets: ClassVar[str] = (
        "weights in and out, bias, norm, utility and age of replaced units, and their moments"
    )
    saved: ClassVar[tuple[str, ...]] = ("_updates", "_utility", "_mean", "_age", "_due", "_births")

    def __post_init__(self) -> None:
        check(
            self,
            replacement_rate=0 <= self.replacement_rate <= 1 or "between 0 and 1",
            maturity=self.maturity >= 0 or "at least 0",
            decay=0 <= self.decay < 1 or "at least 0 and below 1",
        )

    def start(self, learner: Learner) -> None:
        """Gives every unit no utility and age 0."""
        super().start(learner)
        layers = self._recycler.layers
        self._updates = 0
        self._utility, self._age = (
            [layer.maker.weight.new_zeros(layer.units) for layer in layers] for _ in range(2)
        )
        self._mean = [layer.maker.weight.new_zeros(layer.copies * layer.units) for layer in layers]
        self._due = [0.0 for _ in layers]  # c
        self._births: list[list[int]] = [[] for _ in layers]  # updates at which immature units were replaced

    def first_effect(self) -> FirstEffect:
        """Returns when, after maturity, a whole unit of the widest layer is due."""
        each_update = self.replacement_rate * max(layer.units for layer in self._recycler.layers)
        return FirstEffect(update=self.maturity + math.ceil(1 / each_update) if each_update else math.inf)

    @torch.no_grad()
    def after_update(self, batch: Batch) -> None:
        """Updates utilities and replaces what is due."""
        self._updates += 1
        for index, h in enumerate(self._recycler.outputs(batch)):
            layer = self._recycler.layers[index]
            self._age[index] += 1
            self._utility[index].lerp_(h.abs().mean(0) * outgoing_magnitude(layer), 1 - self.decay)
            of_copies = h.view(len(batch.inputs), layer.copies, -1, layer.units).mean((0, 2))
            self._mean[index].lerp_(of_copies.flatten(), 1 - self.decay)
            self._due[index] += self.replacement_rate * self._mature(index)
            if self._due[index] >= 1:
                self._replace(index, int(self._due[index]))

    def _mature(self, index: int) -> int:
        """How many units are older than `maturity`: known from the births, so no device is waited for."""
        if self._updates <= self.maturity:
            return 0
        young = [birth for birth in self._births[index] if self._updates - birth <= self.maturity]
        self._births[index] = young
        return self._recycler.layers[index].units - len(young)

    def _replace(self, index: int, count: int) -> None:
        layer, utility, age = self._recycler.layers[index], self._utility[index], self._age[index]
        mean = self._mean[index].view(layer.copies, layer.units)
        correction = 1 - self.decay**age
        ranked = (utility / correction).masked_fill(age <= self.maturity, torch.inf)
        units = ranked.topk(count, largest=False).indices
        for reader in layer.readers:
            if reader.bias is not None:
                handed = layer.columns(reader.weight) * (mean / correction)[..., None]  # (O, c, U, p)
                reader.bias += handed[:, :, units].sum((1, 2, 3))
        self._recycler.recycle(index, units)
        for statistic in (utility, mean, age):
            statistic[..., units] = 0
        self._due[index] -= count
        self._births[index] += [self._updates] * count


def outgoing_magnitude(layer: HiddenLayer) -> Tensor:
    """Returns sum_k |w_ki| of each unit i over all its readers k, (U,)."""
    first, *others = (layer.columns(reader.weight).abs().sum((0, 1, 3)) for reader in layer.readers)
    return sum(others, first)
