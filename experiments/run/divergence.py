"""Finds updates that diverged, in the weights, before anything of them is saved.

A loss or a gradient that is not finite leaves weights that are not, and they stay so: it is enough to look at the
weights before each snapshot and each row of training curves, which costs nothing in the update itself.
"""

from __future__ import annotations

from typing import Any

import torch

from isorl.agents import Agent
from isorl.configs.errors import RunStopped
from isorl.envs.failures import Failures


class NotFinite(RunStopped):
    """Says that weights are NaN or infinite."""


class DivergenceMonitor:
    """Watches the weights of one agent for values that are not finite.

    Args:
        agent: whose weights are looked at.
        failures: whether the run stops at bad numbers, or skips the updates that would bring them and counts those.
            Skipping looks at the gradients in every update, for which a GPU is waited for.
    """

    def __init__(self, agent: Agent, failures: Failures) -> None:
        self.agent, self.failures = agent, failures
        self._finite_at = agent.num_timesteps
        if failures.config.numbers == "skip":
            agent.policy.optimizer.register_step_pre_hook(self._skip)

    def check(self) -> None:
        """Raises NotFinite if a weight is not finite; its message says which one and since when."""
        parameters = list(self.agent.policy.parameters())
        norms = torch._foreach_norm(parameters)
        step = self.agent.num_timesteps
        if bool(torch.isfinite(torch.stack(norms)).all()):
            self._finite_at = step
            return
        names = [name for name, _ in self.agent.policy.named_parameters()]
        bad = next(name for name, norm in zip(names, norms, strict=True) if not torch.isfinite(norm))
        loss = getattr(self.agent, "_last_loss", None)
        raise NotFinite(
            f"The weights '{bad}' are not finite at agent step {step:,}; at {self._finite_at:,} all were. "
            + ("" if loss is None else f"The last loss was {loss.item():.3g}. ")
            + "Lower the learning rate, or skip updates with such gradients by faults.numbers=skip."
        )

    def reason_of(self, error: BaseException) -> BaseException:
        """Returns NotFinite where weights that are not finite made torch raise `error`; else `error` itself."""
        if not isinstance(error, (ValueError, RuntimeError)):
            return error
        try:
            self.check()
        except NotFinite as reason:
            return reason
        return error

    def _skip(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Without gradients an optimizer leaves weights and moments as they are."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not bool(torch.isfinite(torch.nn.utils.get_total_norm([p.grad for p in parameters]))):
            for parameter in parameters:
                parameter.grad = None
            self.failures.counts["updates"] += 1
