"""TRAC (Muppidi, Zhang and Yang 2024, Fast TRAC: A Parameter-Free Optimizer for Lifelong RL, arXiv 2405.16642)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from isorl.plasticity.adamo import unhooked
from isorl.plasticity.methods.base import Method, adam_options
from isorl.plasticity.methods.registry import METHODS

BETAS = (0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999)
S_INITIAL = EPS = 1e-8
_K = torch.arange(1, 64, dtype=torch.float64)
_OFF = _K / (4 * _K.square() - 1).sqrt()
NODES, _VECTORS = torch.linalg.eigh(torch.diag(_OFF, 1) + torch.diag(_OFF, -1))
WEIGHTS = 2 * _VECTORS[0].square()  # Gauss-Legendre quadrature on [-1, 1] (Golub and Welsch 1969)


@METHODS.register("trac")
@dataclass
class Trac(Method):
    """theta <- theta_ref + S (theta_base - theta_ref): Adam's path, scaled towards the first weights by tuners.

        h = <g, (theta - theta_ref) / S>      v_j <- beta_j^2 v_j + h^2      sigma_j <- beta_j sigma_j - h
        S = sum_j s_j       s_j = 1e-8 / erfi(1 / sqrt 2) * erfi(sigma_j / sqrt(2 v_j))

    Six tuners with beta_j = 0.9, ..., 0.999999 and the constants of the authors' code; there is nothing to tune.
    """

    @property
    def claims(self) -> frozenset[str]:
        """Claims the optimizer."""
        return frozenset({"the optimizer"})

    def optimizer(
        self, cls: type[Optimizer], options: dict[str, Any]
    ) -> tuple[type[Optimizer], dict[str, Any]]:
        """Returns Adam under TRAC."""
        return TracAdam, adam_options("trac", cls, options)


class TracAdam(Adam):
    """Runs Adam under TRAC, its state by parameter or in the first group, so that it can be resumed."""

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, **options)
        zeros = torch.zeros(len(BETAS), dtype=torch.float64)
        self.param_groups[0].update(trac_s=zeros, trac_v=zeros.clone(), trac_sigma=zeros + 1e-8)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Makes one step of Adam, and rescales all that was moved so far."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        before = [p.clone() for p in params]
        unhooked(Adam.step)(self)
        is_new = not any("trac_reference" in self.state[p] for p in params)  # or reset as a whole
        for p, old in zip(params, before, strict=True):
            if "trac_reference" not in self.state[p]:  # at the first update, and after a reset of p
                self.state[p]["trac_reference"] = old.clone()
        references = [self.state[p]["trac_reference"] for p in params]

        tuner = self.param_groups[0]
        for name in ("trac_s", "trac_v", "trac_sigma"):
            # stable-baselines3 moves a policy after its optimizer is made
            tuner[name] = tuner[name].to(params[0].device)
            if is_new:
                tuner[name].fill_(1e-8 if name == "trac_sigma" else 0)
        S = tuner["trac_s"].sum()
        deltas = [(old - ref) / (S + EPS).to(old) for old, ref in zip(before, references, strict=True)]
        h = torch.stack([torch.sum(d * p.grad) for d, p in zip(deltas, params, strict=True)]).sum()
        S = self._tune(tuner, h.double()).sum().clamp(min=0)
        for p, old, ref, delta in zip(params, before, references, deltas, strict=True):
            p.copy_(ref + S.to(p) * (delta + p - old))
        return loss

    def _tune(self, tuner: dict[str, Any], h: Tensor) -> Tensor:
        """The scales s_j after seeing h."""
        beta = torch.tensor(BETAS, dtype=torch.float64, device=h.device)
        tuner["trac_v"].mul_(beta.square()).add_(h.square())
        tuner["trac_sigma"].mul_(beta).sub_(h)
        ratio = tuner["trac_sigma"] / (math.sqrt(2) * tuner["trac_v"].sqrt() + EPS)
        unit = erfi(ratio.new_tensor(1 / math.sqrt(2)))
        return tuner["trac_s"].copy_(S_INITIAL / unit * erfi(ratio))


def erfi(x: Tensor) -> Tensor:
    """Returns 2 / sqrt(pi) times the integral of e^(t^2) from 0 to x, by Gauss-Legendre in double precision."""
    x = x.double()
    nodes, weights = ((NODES.to(x) + 1) / 2, WEIGHTS.to(x) / 2)
    return 2 / math.sqrt(math.pi) * x * ((x[..., None] * nodes).square().exp() * weights).sum(-1)
