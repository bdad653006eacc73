"""torch's Adam, AdamW and Muon and our AdamO on tables of parameters: S rows, one of each run.

Runs with equal options stand together in one parameter group; a step of the optimizer is a step of every run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate, groupby
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.adam import adam

from isorl.agents.batched.parameters import ParameterTable, Unbatchable
from isorl.plasticity import AdamO
from isorl.plasticity.methods.muon import MuonAdam

ADAM = ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize", "decoupled_weight_decay")
ISOMETRY = ("iso_lambda", "iso_lr", "iso_target", "iso_every", "iso_updates")
MUON = ("lr", "momentum", "ns_coefficients", "ns_steps", "eps")
_ADAM, _ISOMETRY, _MUON = itemgetter(*ADAM), itemgetter("isometric", *ISOMETRY[:-1]), itemgetter(*MUON)
MOMENTS = ("exp_avg", "exp_avg_sq")
OF_MUON = {"exp_avg": "momentum_buffer"}
"""What the place of Adam's moment holds for a parameter that Muon trains; of the other it has no use."""


def options_of(optimizer: Optimizer) -> dict[str, Any]:
    """Reads the options that all parameters of a run under Adam share, and those of its isometric ones and under Muon.

    Raises:
        Unbatchable: another optimizer, parameters with different options, or a hook that looks at gradients.
    """
    if type(optimizer) not in ROW_OPTIMIZERS:
        raise Unbatchable(f"the optimizer is {type(optimizer).__name__}")
    if optimizer._optimizer_step_pre_hooks:
        raise Unbatchable("each run looks at its gradients before it takes a step")
    isometric = [group for group in optimizer.param_groups if "iso_lambda" in group and group["isometric"]]
    adam = [group for group in optimizer.param_groups if "betas" in group]
    muon = [group for group in optimizer.param_groups if "momentum" in group]
    for names, groups in ((ADAM, adam), (ISOMETRY, isometric), (MUON, muon)):
        if len({str([group[name] for name in names]) for group in groups}) > 1:
            raise Unbatchable("parameters of a run have different options of the optimizer")
    options = {name: adam[0][name] for name in ADAM}
    if options["amsgrad"]:
        raise Unbatchable("the optimizer keeps a third average of gradients (amsgrad)")
    options |= {name: group[name] for group in isometric[:1] for name in ISOMETRY}
    if muon:
        options["muon"] = {name: muon[0][name] for name in MUON}
    return options


def _raw(optimizer: Optimizer) -> list[Any]:
    """Reads quickly what may change from one update to the next."""
    groups = optimizer.param_groups
    return [
        *(_ADAM(group) if "betas" in group else _MUON(group) for group in groups),
        *(_ISOMETRY(group) for group in groups if "iso_lambda" in group),
    ]


class RowOptimizer(Optimizer):
    """Trains the rows of a table; a mixin that stands before an optimizer's class.

    Args:
        optimizers: the runs' own, in the order of the rows, runs with equal options side by side. Their states become
            views of this one's.
        table: the runs' parameters.
        gradients: (S, P) of them.
        make_way: what `zero_grad` does.
    """

    _first = 0
    """Where in a row begins what Adam trains."""

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        table: ParameterTable,
        gradients: Tensor,
        make_way: Callable[[], None],
    ) -> None:
        self._own, self._table, self._gradients, self._make_way = optimizers, table, gradients, make_way
        self._raw, self._told = list(map(_raw, optimizers)), list(map(options_of, optimizers))
        groups = [
            {**self._told[rows.start], "params": self._rows(rows), **self._further(rows)}
            for rows in self._groups()
        ]
        super().__init__(groups, lr=self._told[0]["lr"], fused=True, foreach=False)  # type: ignore[call-arg]
        self._share_state()
        self._arguments = list(map(self._of_adam, self.param_groups))

    def adam_step(self) -> None:
        """Takes the step of torch's Adam, without looking up anew each time what it works on."""
        for arguments in self._arguments:
            adam(**arguments)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Makes way for the next gradients."""
        self._make_way()

    def _groups(self) -> list[slice]:
        """Returns the rows with equal options that stand side by side."""
        sizes = [len(list(same)) for _, same in groupby(self._told)]
        ends = list(accumulate(sizes))
        return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]

    def _of_adam(self, group: dict[str, Any]) -> dict[str, Any]:
        """Returns what torch's function `adam` takes for a group."""
        rows, (beta1, beta2) = group["params"], group["betas"]
        states = {name: [self.state[row][name] for row in rows] for name in ("exp_avg", "exp_avg_sq", "step")}
        return {
            **{"params": rows, "grads": [row.grad for row in rows], "exp_avgs": states["exp_avg"]},
            **{"exp_avg_sqs": states["exp_avg_sq"], "max_exp_avg_sqs": [], "state_steps": states["step"]},
            **{name: group[name] for name in ADAM if name != "betas"},
            **{"beta1": beta1, "beta2": beta2, "foreach": False, "fused": True},
        }

    def _rows(self, rows: slice) -> list[Tensor]:
        found = list(self._table.values[rows, self._first :].unbind())
        for row, gradient in zip(found, self._gradients[rows, self._first :].unbind(), strict=True):
            row.grad = gradient
        return found

    def _further(self, rows: slice) -> dict[str, Any]:
        """Returns what else a group says."""
        return {}

    def _share_state(self) -> None:
        """Makes every run's state views of one table, and its count of steps one for all of its parameters."""
        rows = [row for group in self.param_groups for row in group["params"]]
        self._moments = {name: self._table.zeros() for name in MOMENTS}
        self._shared: list[tuple[Any, nn.Parameter, dict[str, Any]]] = []
        for number, (row, optimizer) in enumerate(zip(rows, self._own, strict=True)):
            step = torch.tensor(steps_taken(optimizer).pop())
            moments = {name: whole[number, self._first :] for name, whole in self._moments.items()}
            self.state[row] = {"step": step, **moments}
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    state = optimizer.state[parameter]
                    if "betas" in group:
                        state["step"] = step
                    self._shared.append((optimizer.state, parameter, state))
        states = {parameter: state for _, parameter, state in self._shared}
        for moment, whole in self._moments.items():
            for parameter, part in self._table.each(whole):
                state = states[parameter]
                name = moment if "step" in state else OF_MUON.get(moment)
                if name in state:  # there has been an update
                    part.copy_(state[name])
                if name:
                    state[name] = part

    @property
    def holds_state(self) -> bool:
        """Whether the states of the runs' own optimizers are still views of this one's."""
        return all(states.get(parameter) is state for states, parameter, state in self._shared)

    def follow_options(self) -> bool:
        """Takes over options that have changed, by a schedule say; False where other runs stand together now."""
        raw = [_raw(optimizer) for optimizer in self._own]
        if raw != self._raw:
            before = self._groups()
            self._raw, self._told = raw, [options_of(optimizer) for optimizer in self._own]
            if self._groups() != before:
                return False
            for group, rows in zip(self.param_groups, before, strict=True):
                group.update(self._told[rows.start])
            self._arguments = list(map(self._of_adam, self.param_groups))
        return True

    def give_back(self) -> None:
        """Leaves every run's optimizer a count of steps for each of its parameters."""
        self.tell_own()
        for _, _, state in self._shared:
            if "step" in state:
                state["step"] = state["step"].clone()

    def tell_own(self) -> None:
        """Tells the runs' own optimizers what has been counted here."""


class PlainRows(RowOptimizer):
    """Takes Adam's step and nothing else."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Takes one step of every run."""
        self.adam_step()

    step.hooked = True  # type: ignore[attr-defined]  # torch would time it


class RowAdam(PlainRows, Adam):
    """Adam on rows."""


class RowAdamW(PlainRows, AdamW):
    """AdamW on rows."""


class RowAdamO(RowOptimizer, AdamO):
    """AdamO on rows: the isometry step acts on a weight of all runs of a group at once."""

    def _further(self, rows: slice) -> dict[str, Any]:
        isometric = {id(p) for g in self._own[rows.start].param_groups if g["isometric"] for p in g["params"]}
        views = map(self._table.views, (self._table.values, self._gradients))
        weights = [
            _with_gradient(weight[rows], gradient[rows])
            for owner, weight, gradient in zip(self._table.owners[rows.start], *views, strict=True)
            if id(owner) in isometric and weight.ndim == 3
        ]
        return {"isometric": bool(weights), "weights": weights}

    def isometric_weights(self, group: dict[str, Any]) -> list[Tensor]:
        """Returns the weights (S, O, I) of a group of runs that the step acts on."""
        return group["weights"]

    @staticmethod
    def as_matrices(weight: Tensor) -> Tensor:
        """Returns the weights themselves: (S, O, I) are matrices."""
        return weight

    def tell_own(self) -> None:
        """Tells the runs' own optimizers how many updates they have made: the step is due at every k-th."""
        for group, rows in zip(self.param_groups, self._groups(), strict=True):
            for own in (each for optimizer in self._own[rows] for each in optimizer.param_groups):
                own["iso_updates"] = group["iso_updates"]
            for told in self._told[rows]:
                if "iso_updates" in told:
                    told["iso_updates"] = group["iso_updates"]


class RowMuonAdam(RowOptimizer, Adam):
    """Muon on the hidden matrices, which stand first in a row, and Adam on what follows."""

    def __init__(self, optimizers: Sequence[Optimizer], table: ParameterTable, *given: Any) -> None:
        own = [group["params"] for group in optimizers[0].param_groups if "momentum" in group]
        self._first = sum(parameter.numel() for params in own for parameter in params)
        super().__init__(optimizers, table, *given)
        wholes = (table.values, self._gradients, self._moments["exp_avg"])
        matrices = [table.views(whole)[: sum(map(len, own))] for whole in wholes]
        for group, rows in zip(self.param_groups, self._groups(), strict=True):
            group["matrices"] = [[each[rows] for each in one] for one in zip(*matrices, strict=True)]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Takes one step of every run."""
        for group in self.param_groups:
            for weights, gradients, momenta in group["matrices"]:
                muon_step(weights, gradients, momenta, **group["muon"])
        self.adam_step()

    step.hooked = True  # type: ignore[attr-defined]  # torch would time it


def muon_step(
    weights: Tensor,
    gradients: Tensor,
    momenta: Tensor,
    lr: float,
    momentum: float,
    ns_coefficients: tuple[float, float, float],
    ns_steps: int,
    eps: float,
) -> None:
    """Takes the step of torch.optim.Muon with Nesterov's momentum and adjust_lr_fn="match_rms_adamw" on (S, O, I)."""
    momenta.lerp_(gradients, 1 - momentum)
    update = orthogonalised(gradients.lerp(momenta, momentum), ns_coefficients, ns_steps, eps)
    weights.add_(update, alpha=-lr * 0.2 * math.sqrt(max(weights.shape[1:])))


def orthogonalised(
    matrices: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """Returns what Muon's quintic Newton-Schulz iteration makes of (S, O, I), as torch does of each."""
    a, b, c = coefficients
    wide = matrices.shape[1] <= matrices.shape[2]
    found = matrices.bfloat16() if wide else matrices.bfloat16().mT
    found = found / found.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    if alone := len(found) == 1:  # as two: of one, torch rounds products otherwise than of many
        found = found.expand(2, -1, -1)
    for _ in range(steps):
        gram = found @ found.mT
        gram = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        found = torch.baddbmm(found, gram, found, beta=a)
    found = found[:1] if alone else found
    return found if wide else found.mT


def _with_gradient(weight: Tensor, gradient: Tensor) -> Tensor:
    weight.grad = gradient
    return weight


ROW_OPTIMIZERS: dict[type[Optimizer], type[RowOptimizer]] = {
    Adam: RowAdam,
    AdamW: RowAdamW,
    AdamO: RowAdamO,
    MuonAdam: RowMuonAdam,
}
"""An agent's optimizer -> the same on rows."""


def steps_taken(optimizer: Optimizer) -> set[float]:
    """Returns the numbers of steps that the parameters under Adam have taken: one, as a rule."""
    groups = (group for group in optimizer.param_groups if "betas" in group)
    states = (optimizer.state.get(p, {}) for group in groups for p in group["params"])
    return {float(state.get("step", 0.0)) for state in states}
