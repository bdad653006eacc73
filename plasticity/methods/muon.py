"""Muon (Jordan et al. 2024, Muon: An Optimizer for Hidden Layers; torch.optim.Muon), beside Adam for the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Adam, Optimizer

from isorl.plasticity.methods.base import Method, adam_options, check
from isorl.plasticity.methods.registry import METHODS


@METHODS.register("muon")
@dataclass
class Muon(Method):
    """W <- W - lr' orthogonalise(momentum(g)) for hidden matrices; Adam for heads, biases, norms and convolutions.

    The orthogonalised step is rescaled to the size of Adam's (torch's "match_rms_adamw"), so that one learning
    rate, and its schedule, serves both.

    Attributes:
        momentum: in [0, 1). 0.95, torch's default.
    """

    momentum: float = 0.95

    def __post_init__(self) -> None:
        check(self, momentum=0 <= self.momentum < 1 or "at least 0 and below 1")

    @property
    def claims(self) -> frozenset[str]:
        """Claims the optimizer."""
        return frozenset({"the optimizer"})

    def optimizer(
        self, cls: type[Optimizer], options: dict[str, Any]
    ) -> tuple[type[Optimizer], dict[str, Any]]:
        """Returns Muon beside Adam."""
        return MuonAdam, {**adam_options("muon", cls, options), "momentum": self.momentum}


class MuonAdam(Optimizer):
    """Applies torch's Muon to hidden matrices and torch's Adam to the rest, as one optimizer with one state."""

    by_role = True

    def __init__(self, params: Any, lr: float, momentum: float = 0.95, **adam: Any) -> None:
        matrices, others = _split(list(params))
        if not matrices:
            raise ValueError("Method 'muon' found no hidden matrix to train; give the network widths.")
        self._muon = torch.optim.Muon(
            matrices, lr=lr, momentum=momentum, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
        )
        self._adam = Adam(others, lr=lr, **adam)
        super().__init__([*self._muon.param_groups, *self._adam.param_groups], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Makes one step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for inner in (self._muon, self._adam):
            inner.param_groups = [g for g in self.param_groups if ("momentum" in g) == (inner is self._muon)]
            inner.state = self.state  # one state: it is saved, loaded and edited in one place
            inner.step()
        return loss


def _split(groups: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Groups of hidden matrices, and groups of everything else."""
    matrices, others = [], []
    for group in groups:
        of_muon = [p for p in group["params"] if group["role"] == "hidden" and p.ndim == 2]
        of_adam = [p for p in group["params"] if not any(p is m for m in of_muon)]
        matrices += [{**group, "params": of_muon}] if of_muon else []
        others += [{**group, "params": of_adam}] if of_adam else []
    return matrices, others
