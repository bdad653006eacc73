"""Initial feature regularisation, InFeR (Lyle et al. 2022, Understanding and Preventing Capacity Loss, 2204.09560)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from isorl.plasticity.methods.base import Method, check
from isorl.plasticity.methods.learner import Batch, Learner
from isorl.plasticity.methods.registry import METHODS
from isorl.plasticity.methods.structure import CHAIN, body, head
from isorl.plasticity.methods.surgery import add_parameters


@METHODS.register("feature_rank")
@dataclass
class FeatureRank(Method):
    """loss + strength * mean over samples and k of (g_k(phi(x)) - scale * g_k0(phi_0(x)))^2, for each network.

    g_k are linear heads on the features phi, trained with the network; phi_0 and g_k0 are body and heads as they
    were at the start. Keeping many random targets predictable keeps the features' rank.

    Attributes:
        strength: at least 0. 0.1, said to be the paper's alpha; its code is not public.
        scale: of the targets. 10, ours; the paper's is said to be 100, which here would drown the task's gradient.
        heads: k, at least 1. 10, said to be the paper's.
    """

    strength: float = 0.1
    scale: float = 10.0
    heads: int = 10

    relies_on: ClassVar[frozenset[str]] = frozenset({CHAIN})

    def __post_init__(self) -> None:
        check(
            self,
            strength=self.strength >= 0 or "at least 0: a negative one would push features away",
            heads=self.heads >= 1 or "at least 1",
        )

    def start(self, learner: Learner) -> None:
        """Builds the heads, lets the optimizer train them, remembers how everything was."""
        self._bodies = [body(network) for network in learner.networks.values()]
        tops = [head(network) for network in learner.networks.values()]
        with learner.seeded():
            made = [nn.Linear(top.in_features, self.heads).to(top.weight) for top in tops]
        self._heads = nn.ModuleList(made)
        pairs = [nn.Sequential(*pair) for pair in zip(self._bodies, made, strict=True)]
        self._initial = copy.deepcopy(nn.ModuleList(pairs)).requires_grad_(False)
        add_parameters(learner.optimizer, self._heads.parameters(), like=tops[0].weight)

    def loss(self, batch: Batch) -> Tensor:
        """Returns the term strength * sum over networks."""
        terms = []
        for phi, g, g_0 in zip(self._bodies, self._heads, self._initial, strict=True):
            with torch.no_grad():
                targets = self.scale * g_0(batch.inputs)
            terms.append((g(phi(batch.inputs)) - targets).square().mean())
        return self.strength * torch.stack(terms).sum()

    def state_dict(self) -> dict[str, Any]:
        """Returns the heads, and body and heads as they were at the start."""
        return {"heads": dict(self._heads.state_dict()), "initial": dict(self._initial.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self._heads.load_state_dict(state["heads"])
        self._initial.load_state_dict(state["initial"])
