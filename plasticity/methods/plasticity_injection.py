"""Plasticity injection (Nikishin et al. 2023, Deep RL with Plasticity Injection, arXiv 2305.15555)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from isorl.plasticity.methods.base import Boundary, FirstEffect, Method, check
from isorl.plasticity.methods.learner import Batch, Learner
from isorl.plasticity.methods.registry import METHODS
from isorl.plasticity.methods.structure import CHAIN, WEIGHTED, check_chain, head
from isorl.plasticity.methods.surgery import add_parameters, forget, replace_module


@METHODS.register("plasticity_injection")
@dataclass
class PlasticityInjection(Method):
    """Once, f(x) = t(phi(x)) becomes t(phi(x)) + t'(phi(x)) - t''(phi(x)), with t' fresh and t'' = t' at that moment.

    t, the last hidden layer and the head, and t'' are frozen from then on; t' and the body phi learn. The
    function is the same at the moment of the act. Features of the last layer are those of all three, beside each other,
    from then on. All three exist from the start, t' and t'' idle, so that the
    optimizer and every checkpoint know the same parameters before and after.

    Attributes:
        at_switch: the number of the task switch at which it happens, at least 1. The paper injects once.
        at_update: the number of the update at which it happens instead; 0: at a switch.
    """

    at_switch: int = 1
    at_update: int = 0

    agnostic_form: ClassVar[str] = "at_update=N"
    resets: ClassVar[str] = "nothing of the function; the new tail starts without moments"
    saved: ClassVar[tuple[str, ...]] = ("_updates", "_switches", "_injected")

    def __post_init__(self) -> None:
        check(
            self,
            at_switch=self.at_switch >= 1 or "the number of a switch, at least 1",
            at_update=self.at_update >= 0 or "the number of an update, or 0",
        )

    @property
    def claims(self) -> frozenset[str]:
        """Claims the chain of layers, which the tail is not any more, and the head."""
        return frozenset({CHAIN, "when the head is drawn anew"})

    @property
    def boundary(self) -> Boundary:
        """Returns "informed" where it acts at a switch."""
        return "agnostic" if self.at_update else "informed"

    def start(self, learner: Learner) -> None:
        """Gives every network, and its target, room for the new tail."""
        self._learner = learner
        self._updates = self._switches = 0
        self._injected = False
        names = {id(parameter): name for name, parameter in learner.root.named_parameters()}
        for network in learner.networks.values():
            check_chain(network)
        self._triples = _branch(learner.root, list(learner.networks.values()))
        _branch(learner.root, list(learner.targets.values()))
        self._names = [[names[id(p)] for p in triple.old.parameters()] for triple in self._triples]
        for triple in self._triples:
            for new, old in zip(triple.new.parameters(), triple.old.parameters(), strict=True):
                add_parameters(learner.optimizer, [new], like=old)

    def first_effect(self) -> FirstEffect:
        """Returns the moment of the injection."""
        return FirstEffect(update=self.at_update) if self.at_update else FirstEffect(switch=self.at_switch)

    def after_update(self, batch: Batch) -> None:
        """Injects at the given update."""
        self._updates += 1
        if self._updates == self.at_update:
            self._inject()

    def on_switch(self) -> None:
        """Injects at the given switch."""
        self._switches += 1
        if not self.at_update and self._switches == self.at_switch:
            self._inject()

    @torch.no_grad()
    def _inject(self) -> None:
        fresh = self._learner.fresh_weights()
        for triple, names in zip(self._triples, self._names, strict=True):
            for new, twin, name in zip(triple.new.parameters(), triple.twin.parameters(), names, strict=True):
                new.copy_(fresh[name])
                twin.copy_(fresh[name])
            for old in triple.old.parameters():
                forget(self._learner.optimizer, old)
        self._injected = True
        self._freeze()
        self._learner.sync_targets()

    def _freeze(self) -> None:
        for triple in self._triples:
            triple.active = True
            triple.old.requires_grad_(False)
            triple.new.requires_grad_(True)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes the counters back, and freezes again what was frozen."""
        super().load_state_dict(state)
        if self._injected:
            self._freeze()


class Triple(nn.Module):
    """Holds a module t, and room for t' and t''; idle, it is t alone and costs nothing."""

    def __init__(self, old: nn.Module) -> None:
        super().__init__()
        self.old, self.active = old, False
        self.new, self.twin = copy.deepcopy(old), copy.deepcopy(old)
        self.new.requires_grad_(False)
        self.twin.requires_grad_(False)

    def get_extra_state(self) -> int:
        """Says whether t' and t'' take part; a target network learns it by `load_state_dict`."""
        return int(self.active)

    def set_extra_state(self, state: int) -> None:
        """Takes back what `get_extra_state` gave."""
        self.active = bool(state)


class Branches(Triple):
    """Computes the last hidden layer three times: (B, I) -> (B, F), active (B, 3 F)."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns [t(x), t'(x), t''(x)]."""
        if not self.active:
            return self.old(x)
        return torch.cat((self.old(x), self.new(x), self.twin(x)), dim=-1)


class Sum(Triple):
    """Computes the head three times: (B, F) -> (B, O), active from (B, 3 F)."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns t(x) + t'(x') - t''(x'')."""
        if not self.active:
            return self.old(x)
        x, x_new, x_twin = x.chunk(3, dim=-1)
        return self.old(x) + self.new(x_new) - self.twin(x_twin)


def _branch(root: nn.Module, networks: list[nn.Sequential]) -> list[Triple]:
    """Puts triples in the place of the tails, in `root`, which holds the layers, and in the networks' own views."""
    triples: list[Triple] = []
    for network in networks:
        top = head(network)
        triples.append(Sum(top))
        for holder in (root, *networks):
            replace_module(holder, top, triples[-1])
        if not any(isinstance(module, Branches) for module in network.modules()):  # else shared, and done
            triples.append(_branch_body(network))
    return triples


def _branch_body(network: nn.Sequential) -> Branches:
    """Replaces the end of the body, from its last weight on, by three of it."""
    body = next(module for module in network if isinstance(module, nn.Sequential))
    starts = [i for i, module in enumerate(body) if isinstance(module, WEIGHTED)]
    if not starts:
        raise ValueError(
            "Method 'plasticity_injection' needs a hidden layer under the head; give the network widths."
        )
    branches = Branches(nn.Sequential(*list(body)[starts[-1] :]))
    del body[starts[-1] :]
    body.append(branches)
    return branches
