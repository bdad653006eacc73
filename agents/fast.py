"""The option `exact`: compute bit for bit what stable-baselines3 computes, or the same within rounding, but faster.

Fast means other parts in the same loop and the same update: policies (fast_policies.py), layouts (rollout.py,
replay.py), torch's fused optimizer kernel, numpy for small networks (batched/). Minibatches, draws and formulas are
those of the exact mode, so a fast run differs from an exact one as two machines' runs do: by rounding, which chaos
then amplifies. A fast run equals itself, also when it is resumed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy

from isorl.agents.collect import can_collect
from isorl.agents.compiled import compiled_loss, why_not
from isorl.agents.fast_policies import PRECISIONS
from isorl.agents.memory import keep_freed_memory

LOG = logging.getLogger("isorl")


class Fast(BaseAlgorithm):
    """Adds `exact`, `precision` and `compile` to an algorithm of stable-baselines3; stands before its class.

    Args:
        exact: True computes what stable-baselines3 computes, bit for bit. False computes it fast; where that is
            not possible the run is exact and the log says why.
        precision: float32, or for the networks of a fast run bfloat16 or, on a GPU, tfloat32: products of numbers that
            are rounded to 10 bits. (Convolutions on a GPU are so anyway, as torch has it.)
        compile: whether torch compiles the loss of a fast run.

    Raises:
        ValueError: an unknown precision, an exact run in another than float32 or compiled, tfloat32 without a GPU, or
            nothing to compile with.
    """

    FAST_POLICIES: ClassVar[dict[type[BasePolicy], type[BasePolicy]]] = {}
    """Policy -> its fast twin."""

    def __init__(
        self,
        *args: Any,
        exact: bool = True,
        precision: str = "float32",
        compile: bool = False,
        **kwargs: Any,
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}")
        if exact and precision != "float32":
            raise ValueError(f"exact=True computes what stable-baselines3 computes, which is not {precision}")
        if exact and compile:
            raise ValueError("exact=True computes what stable-baselines3 computes, which is not compiled")
        if compile and (missing := why_not()):
            raise ValueError(f"compile=True needs {missing}")
        self.exact, self.precision, self.compile = exact, precision, compile
        super().__init__(*args, **kwargs)

    def maybe_compile(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        """Returns `loss`, compiled where that was asked for."""
        return compiled_loss(loss, self.device.type) if self.compile else loss

    def _setup_model(self) -> None:
        reason = self._why_exact()
        if reason and not self.exact:
            LOG.info("this run is exact, not fast: %s", reason)
            self.exact, self.compile = True, False
        if not self.exact:
            self._choose_fast_parts()
            keep_freed_memory()
            self._set_precision()
        super()._setup_model()  # type: ignore[safe-super]

    def _set_precision(self) -> None:
        """Sets the precision of products of float32 numbers, which is the process's."""
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high" if self.precision == "tfloat32" else "highest")
        elif self.precision == "tfloat32":
            raise ValueError(
                f"precision='tfloat32' is computed by GPUs alone, and the device is {self.device}"
            )

    def _why_exact(self) -> str | None:
        """Returns what the fast parts cannot do, if anything."""
        fast = self.FAST_POLICIES
        if self.policy_class not in {*fast, *fast.values()}:
            return f"only policy='NetworkPolicy' has a fast twin, not {self.policy_class.__name__}"
        if not isinstance(self.observation_space, spaces.Box):
            return f"observations are {self.observation_space}"
        if not isinstance(self.action_space, (spaces.Discrete, spaces.Box)):
            return f"actions are {self.action_space}"
        return None if can_collect(self) else "actions depend on the state's noise (use_sde)"

    def _choose_fast_parts(self) -> None:
        policy: Any = self.policy_class
        self.policy_class = self.FAST_POLICIES.get(policy, policy)
        self.policy_kwargs = {**_fused(policy, self.policy_kwargs), "precision": self.precision}


def _fused(policy: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Returns the policy's arguments with torch's fused kernel, where the optimizer is an Adam and may use it."""
    cls = given.get("optimizer_class", torch.optim.Adam)
    options = dict(given.get("optimizer_kwargs") or {})
    if not issubclass(cls, torch.optim.Adam) or options.get("foreach"):
        return given
    if cls is torch.optim.Adam and given.get("optimizer_kwargs") is None:
        options["eps"] = policy.ADAM_EPS  # stable-baselines3's, where it is given no options
    if options.get("fused") is None:
        options["fused"] = True
    return {**given, "optimizer_kwargs": options}
