"""Kron (Li 2018, Preconditioned SGD, arXiv 1512.04202, with Kronecker-factored preconditioners; package kron-torch)."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from torch.optim import Optimizer

from isorl.plasticity.methods.base import Method, adam_options
from isorl.plasticity.methods.registry import METHODS

FLAT, DECAY, LEAST = 500, 1e-3, 0.03
LARGEST = 1024
"""Sides above this get a diagonal factor; with the package's 8192 one Nature CNN takes gigabytes."""


@METHODS.register("kron")
@dataclass
class Kron(Method):
    """theta <- theta - lr Q^T Q m, with m the momentum and Q a Kronecker product fitted to whiten the gradient.

    The optimizer, its constants and its schedule of preconditioner updates are those of the package; what it keeps
    outside its state (counters, a callable, draws from torch's global stream) is kept here so that it can be
    resumed. It is an optional extra: `pip install isorl[kron]`.
    """

    requires: ClassVar[str | None] = "kron_torch"

    @property
    def claims(self) -> frozenset[str]:
        """Claims the optimizer."""
        return frozenset({"the optimizer"})

    def optimizer(
        self, cls: type[Optimizer], options: dict[str, Any]
    ) -> tuple[type[Optimizer], dict[str, Any]]:
        """Returns Kron in the place of Adam."""
        adam_options("kron", cls, options)
        return resumable_kron(), {}


@cache
def resumable_kron() -> type[Optimizer]:
    """Returns a kron_torch.Kron with everything it needs in its state.

    Raises:
        ValueError: the package is not installed.
    """
    try:
        import kron_torch
    except ImportError as error:
        raise ValueError("Method 'kron' needs the package kron-torch: pip install isorl[kron].") from error

    class ResumableKron(kron_torch.Kron):
        def __init__(self, params: Any, lr: float) -> None:
            super().__init__(
                params, lr=lr, preconditioner_update_probability=1.0, max_size_triangular=LARGEST
            )
            self.param_groups[0].update(kron_steps=0, kron_since=0)

        def step(self, closure: Callable[[], Any] | None = None) -> Any:
            first = self.param_groups[0]
            steps = first["kron_steps"]
            first["preconditioner_update_probability"] = update_probability(steps)
            self._update_counter = torch.tensor(first["kron_since"], dtype=torch.int32)
            self.rng.seed(steps)  # decides when to balance; the package draws it from a stream of its own
            with torch.random.fork_rng(devices=[]), redirect_stdout(None):  # its first step prints its sizes
                torch.manual_seed(steps)
                loss = super().step(closure)
            first.update(kron_steps=steps + 1, kron_since=int(self._update_counter))
            return loss

        def state_dict(self) -> dict[str, Any]:
            content = super().state_dict()
            content["state"] = {key: _plain(state) for key, state in content["state"].items()}
            return content

        def load_state_dict(self, content: dict[str, Any]) -> None:
            super().load_state_dict(content)
            for group in self.param_groups:
                shape = [
                    group[key] for key in ("max_size_triangular", "min_ndim_triangular", "memory_save_mode")
                ]
                for state in (self.state[p] for p in group["params"] if p in self.state):
                    _, state["exprs"] = kron_torch.kron._init_Q_exprs(state["momentum_buffer"], 1.0, *shape)

    return ResumableKron


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """Without the einsum expressions, which torch's loading would take apart, and with plain integers."""
    kept = {key: value for key, value in state.items() if key != "exprs"}
    if "merged_shape" in kept:
        kept["merged_shape"] = [int(size) for size in kept["merged_shape"]]
    return kept


def update_probability(step: int) -> float:
    """Returns that of the package's schedule: 1 for 500 steps, then an exponential down to 0.03."""
    return min(1.0, max(LEAST, math.exp(-DECAY * (step - FLAT))))
