"""UPGD (Elsayed and Mahmood 2024, Addressing Loss of Plasticity and Catastrophic Forgetting in CL, 2404.00781)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from isorl.plasticity.methods.base import Method, adam_options, check
from isorl.plasticity.methods.learner import Learner
from isorl.plasticity.methods.registry import METHODS


@METHODS.register("upgd")
@dataclass
class UPGD(Method):
    """theta <- (1 - lr weight_decay) theta - 2 lr (1 - U) (m / (sqrt v + eps) + noise N(0, 1)).

        u <- decay u + (1 - decay) (-g theta)      U = sigmoid(u / max u), the maximum over all weights; m, v of Adam

    -g theta is to first order what the loss would rise by without the weight: useful weights move less, useless ones
    are perturbed. U is about 1/2 for most weights, which the factor 2 makes up for.

    Read in the authors' code (mohmdelsayed/upgd): this is the adaptive form that it runs with PPO, values included;
    its supervised streams use the form without Adam's moments, theta - lr (1 - U) (g + noise). It corrects u for its
    start at 0, but not the maximum by which it divides, so that U is 0 or 1 for nearly all weights during the first
    1 / (1 - decay) updates; here both are corrected. Confound: noise and weight decay act without any utility, and no
    option turns the utility alone off.

    Attributes:
        noise: scale of the perturbation, at least 0. 0.001, the authors' PPO; 0.01 to 1 in their supervised sweeps.
        decay: of the utility, in [0, 1). 0.999, the authors' code.
        weight_decay: at least 0. 0.001, the default of the authors' optimizer.
    """

    noise: float = 0.001
    decay: float = 0.999
    weight_decay: float = 0.001

    def __post_init__(self) -> None:
        check(
            self,
            noise=self.noise >= 0 or "at least 0",
            decay=0 <= self.decay < 1 or "at least 0 and below 1",
            weight_decay=self.weight_decay >= 0 or "at least 0",
        )

    @property
    def claims(self) -> frozenset[str]:
        """Claims the optimizer."""
        return frozenset({"the optimizer"})

    def optimizer(
        self, cls: type[Optimizer], options: dict[str, Any]
    ) -> tuple[type[Optimizer], dict[str, Any]]:
        """Returns the perturbed optimizer in the place of Adam.

        Raises:
            ValueError: another optimizer was asked for, or Adam with options that this one has not.
        """
        options = adam_options("upgd", cls, options)
        for name in options.keys() - {"betas", "eps", "fused", "foreach"}:  # the last two are Adam's kernels
            if options[name]:
                raise ValueError(
                    f"Method 'upgd' replaces Adam and has no {name} of it; leave out optimizer.{name}={options[name]}."
                )
        kept: dict[str, Any] = {name: options[name] for name in ("betas", "eps") if name in options}
        own: dict[str, Any] = {"noise": self.noise, "decay": self.decay, "weight_decay": self.weight_decay}
        return PerturbedAdam, {**kept, **own}

    def start(self, learner: Learner) -> None:
        """Lets the optimizer draw from the stream of methods."""
        assert isinstance(learner.optimizer, PerturbedAdam)
        learner.optimizer.generator = learner.generator


class PerturbedAdam(Optimizer):
    """Runs the adaptive form of UPGD; `generator`, of its noise, is not part of its state.

    Args:
        params: of torch's optimizers.
        lr: alpha; a step is about as long as Adam's.
        betas: of Adam.
        eps: of Adam.
        weight_decay: decoupled.
        noise: standard deviation.
        decay: of the utility.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.001,
        noise: float = 0.001,
        decay: float = 0.999,
    ) -> None:
        options = {"betas": betas, "eps": eps, "weight_decay": weight_decay, "noise": noise, "decay": decay}
        super().__init__(params, {"lr": lr, **options})
        self.generator = torch.Generator()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Makes one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        pairs = [(group, p) for group in self.param_groups for p in group["params"] if p.grad is not None]
        utilities = []
        for group, p in pairs:
            state = self.state[p]
            if not state:
                state.update(
                    step=0, **{name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq", "utility")}
                )
            state["step"] += 1
            state["exp_avg"].lerp_(p.grad, 1 - group["betas"][0])
            state["exp_avg_sq"].lerp_(p.grad.square(), 1 - group["betas"][1])
            state["utility"].lerp_(-p.grad * p, 1 - group["decay"])
            utilities.append(state["utility"].max() / (1 - group["decay"] ** state["step"]))
        if not pairs:
            return loss
        # positive, so that no weight is taken for useful where none is
        largest = torch.stack(utilities).max().clamp(min=torch.finfo(torch.float32).tiny)
        for group, p in pairs:
            state, (beta1, beta2), step = self.state[p], group["betas"], self.state[p]["step"]
            m, v = state["exp_avg"] / (1 - beta1**step), state["exp_avg_sq"] / (1 - beta2**step)
            utility = state["utility"] / (1 - group["decay"] ** step)
            # drawn on the CPU: the same noise on every device
            noise = torch.randn(p.shape, generator=self.generator).to(p) * group["noise"]
            free = 1 - torch.sigmoid(utility / largest)
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.sub_(2 * group["lr"] * free * (m / (v.sqrt() + group["eps"]) + noise))
        return loss
