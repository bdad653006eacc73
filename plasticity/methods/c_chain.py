"""C-CHAIN (Tang et al. 2025, Mitigating Plasticity Loss in Continual RL by Reducing Churn, ICML 2025)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from isorl.plasticity.methods.base import FirstEffect, Method, check
from isorl.plasticity.methods.learner import Batch, Learner
from isorl.plasticity.methods.registry import METHODS
from isorl.plasticity.methods.structure import CHAIN

EPS = 1e-8
LONG = 2**20
"""Terms after which nothing is left to correct."""


@METHODS.register("c_chain")
@dataclass
class CChain(Method):
    """loss + beta * mean (f_theta(x) - f_before(x))^2, x another batch, f_before the network one update ago.

        beta = strength * E|loss| / E churn, so that the term is about this share of the task's loss

    (1e-8 is added to E churn, as in the authors' code: below it, at tiny learning rates, the term fades.)

    What the last update did to outputs for samples that it did not learn from, the churn, is held back. f is the actor
    (its logits, or means of actions), Q-network or classifier; a critic is left free, as in the authors' code.

    Read in that code (bluecontra/C-CHAIN): the network one update ago, beta, and the squares, which stand in its DQN
    and its PPO for continuous actions; its PPO for discrete ones has the cross entropy of both policies instead. It
    draws x from the rollout or the replay; here x is the minibatch before the last one, on which neither the last
    update nor this one learns. Its beta starts as a constant, follows the policy's part of PPO's loss, over windows,
    and in one of its programs its means are begun anew *at task switches*; here beta follows the whole loss by
    running means from the third update on, and no switch is known.

    Attributes:
        strength: at least 0. 0.01 in the authors' DQN; their PPOs go up to 1e4 for another term.
        decay: of the running means E, in [0, 1). 0.999, ours: the authors' windows hold 50 to 50,000 updates.
    """

    strength: float = 0.01
    decay: float = 0.999

    relies_on: ClassVar[frozenset[str]] = frozenset({CHAIN})
    saved: ClassVar[tuple[str, ...]] = ("_inputs", "_task_loss", "_churn", "_terms")

    def __post_init__(self) -> None:
        check(
            self,
            strength=self.strength >= 0 or "at least 0: a negative one would add churn",
            decay=0 <= self.decay < 1 or "at least 0 and below 1",
        )

    def start(self, learner: Learner) -> None:
        """Makes room for the network one update ago."""
        self._networks = nn.ModuleDict({n: net for n, net in learner.networks.items() if n != "critic"})
        self._before = copy.deepcopy(self._networks).requires_grad_(False)
        self._inputs: list[Tensor] = []  # of the last two minibatches, the older first
        self._task_loss = self._churn = torch.zeros(())
        self._terms = 0

    def first_effect(self) -> FirstEffect:
        """Returns the third update, the first that has an older minibatch than the last."""
        return FirstEffect(update=3)

    def loss(self, batch: Batch) -> Tensor | None:
        """Returns the term, and remembers network and minibatch for the next updates."""
        term = self._term(self._inputs[0], batch.task_loss) if len(self._inputs) == 2 else None
        self._before.load_state_dict(self._networks.state_dict())
        self._inputs = [*self._inputs[-1:], batch.inputs.detach().clone()]
        return term

    def _term(self, x: Tensor, task_loss: Tensor) -> Tensor:
        pairs = zip(self._networks.values(), self._before.values(), strict=True)
        churn = torch.stack([(now(x) - before(x)).square().mean() for now, before in pairs]).sum()
        self._task_loss = self._follow(self._task_loss, task_loss.abs())
        self._churn = self._follow(self._churn, churn.detach())
        self._terms += 1
        bias = 1 - self.decay**self._terms  # of means that began at 0
        return self.strength * (self._task_loss / bias) / (self._churn / bias + EPS) * churn

    def _follow(self, mean: Tensor, value: Tensor) -> Tensor:
        return torch.lerp(value, mean.to(value), self.decay)

    def state_dict(self) -> dict[str, Any]:
        """Returns what is named in `saved`, and the network one update ago."""
        return {**super().state_dict(), "before": dict(self._before.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        super().load_state_dict({"_terms": LONG, **state})  # earlier versions had none, and corrected no bias
        self._before.load_state_dict(state["before"])
