"""Runs with networks of one structure, computed and trained as one: a batched product per layer, in numpy.

The weights of all runs lie in one tensor, of which each run keeps a view: parameters, gradients and moments of a run
stay where policies, methods, diagnostics and checkpoints look for them, and are always up to date. Whatever changes
more than their values (a method at a task switch) dissolves the stack; the next update builds anew.

Shapes: S runs, C networks of a run, B batch, I inputs, O outputs, P parameters of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW
from torch.optim.adam import adam

from isorl.agents.batched.table import Table, Unstackable
from isorl.agents.numpy_mlp import NumpyMlp
from isorl.plasticity import AdamO
from isorl.plasticity.adamo import isometry_rate
from isorl.plasticity.linalg import isometry_descent

ADAM_OPTIONS = ("betas", "lr", "eps", "weight_decay", "amsgrad", "maximize", "decoupled_weight_decay")
MOMENTS = ("exp_avg", "exp_avg_sq")


class Forward:
    """What the networks of S runs compute.

    Args:
        networks: of every run, name -> Sequential(Flatten, body, head).
        table: their parameters, the blocks of `blocks_of` first.
        gradients: (S, P) where the gradients go; None: `back` is not called.
    """

    def __init__(
        self, networks: Sequence[dict[str, nn.Sequential]], table: Table, gradients: Tensor | None = None
    ) -> None:
        self.names = list(networks[0])
        of_values = _arrays(table, table.values)
        of_gradients = of_values if gradients is None else _arrays(table, gradients)
        first = list(networks[0].values())
        (values, *of_heads), (gradient, *to_heads) = of_values, of_gradients
        modules = [chain[2] for chain in first]
        try:
            self._body = NumpyMlp(first[0][1], values, gradient)
            heads = [
                NumpyMlp(*each, largest=self._body.largest)
                for each in zip(modules, of_heads, to_heads, strict=False)  # behind the heads, log_std
            ]
        except ValueError as unknown:
            raise Unstackable(str(unknown)) from None
        self._heads = dict(zip(self.names, heads, strict=True))
        self._kept: Any = None

    def __call__(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """(S, B, I) -> name -> (S, B, O)."""
        features = self._body(x[:, None])
        return {
            name: head(features[:, c : c + 1])[:, 0] for c, (name, head) in enumerate(self._heads.items())
        }

    def trace(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """The same, remembered for `back`."""
        body = self._body.trace(x[:, None])
        heads = [head.trace(body[-1][:, c : c + 1]) for c, head in enumerate(self._heads.values())]
        self._kept = body, heads
        return {name: values[-1][:, 0] for name, values in zip(self.names, heads, strict=True)}

    def hidden(self, x: np.ndarray) -> list[np.ndarray]:
        """(S, B, I) -> the outputs (S, C, B, O) of each hidden layer."""
        return self._body.hidden(x[:, None])

    def back(self, slopes: dict[str, np.ndarray]) -> None:
        """Writes the gradients of what has the derivatives `slopes` by the last trace's outputs."""
        body, heads = self._kept
        of_features = [
            head.back(slopes[name][:, None], values)
            for (name, head), values in zip(self._heads.items(), heads, strict=True)
        ]
        gradient = np.concatenate([each.swapaxes(-1, -2) for each in of_features], 1).swapaxes(-1, -2)
        self._body.back(gradient, body, by_input=False)


def blocks_of(networks: Sequence[dict[str, nn.Sequential]]) -> list[list[list[nn.Module]]]:
    """The networks of every run, block -> run -> modules: all bodies, then each head.

    Raises:
        Unstackable: networks of another form, or not alike.
    """
    chains = [chain for run in networks for chain in run.values()]
    if any(len(chain) != 3 or not isinstance(chain[0], nn.Flatten) for chain in chains):
        raise Unstackable("a network is no MLP")
    if len({str(chain[1]) for chain in chains}) != 1:
        raise Unstackable("their networks are not alike")
    bodies = [[chain[1] for chain in run.values()] for run in networks]
    return [bodies, *([[run[name][2]] for run in networks] for name in networks[0])]


def _arrays(table: Table, whole: Tensor) -> list[list[np.ndarray]]:
    return [[view.detach().numpy() for view in block] for block in table.views(whole)]


class Stack:
    """Policies of S runs that are trained as one.

    Args:
        agents: fast ones on the CPU, of one form.

    Raises:
        Unstackable: why they cannot be.
    """

    def __init__(self, agents: Sequence[Any]) -> None:
        self.agents = list(agents)
        self.optimizers = [agent.policy.optimizer for agent in agents]
        self._policy = agents[0].policy
        _check_optimizers(self.optimizers)
        networks = [agent.learner.networks for agent in agents]
        blocks = blocks_of(networks)
        outside: list[list[nn.Module]] = [[nn.ParameterList(agent.learner.outside())] for agent in agents]
        if agents[0].learner.outside():
            blocks.append(outside)
        self.table = Table(blocks)
        self._gradients = self.table.zeros()
        self._gradients_given = False
        self.gradient_views = self.table.views(self._gradients)
        self.terms: Any = None
        """What methods add (terms.py)."""
        self.forward = Forward(networks, self.table, self._gradients)
        self._check_complete()
        self.outside: list[tuple[np.ndarray, np.ndarray]] = []
        """Parameters of no network, such as log_std, each with its gradient: (S, *shape)."""
        if agents[0].learner.outside():
            both = (_arrays(self.table, whole)[-1] for whole in (self.table.values, self._gradients))
            self.outside = [(value[:, 0], gradient[:, 0]) for value, gradient in zip(*both, strict=True)]
        self._take_moments()
        self._isometric = self._isometric_weights()
        targets = [agent.learner.targets for agent in agents]
        self.targets = Forward(targets, Table(blocks_of(targets))) if targets[0] else None
        """Target networks, which no optimizer trains."""
        self._told: list[Any] = []
        self.begin()

    def begin(self) -> None:
        """Reads what each run is told for its next updates: schedules change it between them."""
        told = [
            (agent.max_grad_norm, *(optimizer.param_groups[0][name] for name in ADAM_OPTIONS))
            for agent, optimizer in zip(self.agents, self.optimizers, strict=True)
        ]
        if told == self._told:
            return
        self._told = told
        self._max_norms = torch.tensor([max_norm for max_norm, *_ in told])
        alike: dict[tuple[Any, ...], list[int]] = {}
        for run, (_, *options) in enumerate(told):
            alike.setdefault(tuple(options), []).append(run)
        self._alike = [{**_of_adam(*options), **self._rows_of(runs)} for options, runs in alike.items()]

    def _rows_of(self, runs: list[int]) -> dict[str, list[Tensor]]:
        """What `adam` takes for some runs."""
        names = ("params", "grads", "exp_avgs", "exp_avg_sqs", "state_steps")
        wholes = (self.table.values, self._gradients, *self._moments, self._steps)
        rows = {name: [whole[run] for run in runs] for name, whole in zip(names, wholes, strict=True)}
        return {**rows, "max_exp_avg_sqs": []}

    def inputs(self, observations: np.ndarray) -> np.ndarray:
        """(S, B, ...) observations -> (S, B, I), as the networks read them."""
        if observations.dtype != np.float32 or self._policy._scales:
            prepared = self._policy.prepared(torch.from_numpy(observations).flatten(0, 1))
            return prepared.reshape(*observations.shape[:2], -1).numpy()
        return observations.reshape(*observations.shape[:2], -1)

    def rebuild(self) -> None:
        """Gathers again what a run has replaced."""
        self.dissolve()
        self.__init__(self.agents)  # type: ignore[misc]

    @property
    def is_whole(self) -> bool:
        """Whether every run still keeps its optimizer's state here."""
        return all(states.get(parameter) is state for states, parameter, state in self._states)

    def dissolve(self) -> None:
        """Leaves every run a state of its own again."""
        for _, _, state in self._states:
            state["step"] = state["step"].clone()

    def give_gradients(self) -> None:
        """Makes every run's gradients views of those of all; before the first update it has none."""
        if not self._gradients_given:
            for parameter, gradient in self.table.each(self._gradients):
                parameter.grad = gradient
            self._gradients_given = True

    @torch.no_grad()
    def update(self) -> None:
        """One optimizer step of every run, by the gradients that `forward` and the methods have written."""
        self.give_gradients()
        self._clip()
        self._step()

    def _clip(self) -> None:
        """torch.nn.utils.clip_grad_norm_ of every run."""
        norms = torch.linalg.vector_norm(self._gradients, dim=1)
        factors = (self._max_norms / (norms + 1e-6)).clamp_(max=1.0)
        if not factors.min() >= 1:  # also where one is NaN
            self._gradients.mul_(factors[:, None])

    def _step(self) -> None:
        self._isometry_step()
        for arguments in self._alike:
            adam(**arguments)

    def _isometry_step(self) -> None:
        """AdamO's, for all matrices of one shape at once."""
        if not isinstance(self.optimizers[0], AdamO):
            return
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["iso_updates"] += 1
        for weights, groups in self._isometric:
            strengths = torch.tensor([_strength_now(group) for group in groups])
            if strengths.any():
                step = isometry_descent(weights, strengths[:, None, None], groups[0]["iso_target"])
                weights.add_(step)

    def _isometric_weights(self) -> list[tuple[Tensor, list[dict[str, Any]]]]:
        """The (S, O, I) weights on which the isometry step acts, with the options of each run."""
        if not isinstance(self.optimizers[0], AdamO):
            return []
        group_of = {
            id(p): group for opt in self.optimizers for group in opt.param_groups for p in group["params"]
        }
        found = []
        for places in self.table.blocks:
            for place in places:
                for number, weights in enumerate(place.view(self.table.values).unbind(1)):
                    groups = [group_of[id(owners[number])] for owners in place.owners]
                    if groups[0]["isometric"] and weights.ndim == 3:
                        found.append((weights, groups))
        return found

    def _take_moments(self) -> None:
        """Makes the optimizer state of every run views of one tensor, and the count of its steps one for all."""
        self._steps = torch.zeros(len(self.agents))
        self._moments = [self.table.zeros() for _ in MOMENTS]
        self._states: list[tuple[Any, nn.Parameter, dict[str, Any]]] = []
        states: dict[nn.Parameter, dict[str, Any]] = {}
        for run, optimizer in enumerate(self.optimizers):
            if len(steps := _steps_of(optimizer)) != 1:
                raise Unstackable("the parameters of a run have taken different numbers of steps")
            self._steps[run] = steps.pop()
            own = {p: optimizer.state[p] for group in optimizer.param_groups for p in group["params"]}
            for parameter, state in own.items():
                state["step"] = self._steps[run]
                self._states.append((optimizer.state, parameter, state))
            states |= own
        for name, whole in zip(MOMENTS, self._moments, strict=True):
            for parameter, row in self.table.each(whole):
                if name in states[parameter]:  # there has been an update
                    row.copy_(states[parameter][name])
                states[parameter][name] = row

    def _check_complete(self) -> None:
        held = {id(parameter) for parameter in self.table.parameters}
        trained = {id(p) for opt in self.optimizers for group in opt.param_groups for p in group["params"]}
        if held != trained:
            raise Unstackable("the optimizer trains other parameters than those of the networks")


def joined(arrays: list[np.ndarray]) -> np.ndarray:
    """What each run gives, (N, ...), as (S, N, ...); np.stack takes three times as long."""
    return np.concatenate(arrays).reshape(len(arrays), *arrays[0].shape)


def form_of(agent: Any) -> Any:
    """What must be equal for agents to be trained as one; rates, strengths, coefficients and methods need not be."""
    groups = agent.policy.optimizer.param_groups
    return (
        type(agent),
        str(agent.learner.networks),
        type(agent.policy.optimizer),
        tuple((group.get("isometric"), group.get("iso_target")) for group in groups),
        getattr(agent, "normalize_advantage", None),
        getattr(agent, "clip_range_vf", None) is None,
        getattr(agent, "target_kl", None),
        None if len(_steps_of(agent.policy.optimizer)) == 1 else id(agent),
    )


def _steps_of(optimizer: Any) -> set[float]:
    """That its parameters have taken."""
    states = (optimizer.state.get(p, {}) for group in optimizer.param_groups for p in group["params"])
    return {float(state.get("step", 0.0)) for state in states}


def _check_optimizers(optimizers: Sequence[Any]) -> None:
    """Refuses what a fused Adam step of each run's row cannot do."""
    for optimizer in optimizers:
        if type(optimizer) not in (Adam, AdamW, AdamO):
            raise Unstackable(f"the optimizer is {type(optimizer).__name__}")
        if optimizer._optimizer_step_pre_hooks:
            raise Unstackable("each run looks at its gradients before it takes a step")
        options = {str([group[name] for name in ADAM_OPTIONS]) for group in optimizer.param_groups}
        if len(options) != 1 or optimizer.param_groups[0]["amsgrad"]:
            raise Unstackable("parameter groups have different options of Adam")


def _of_adam(betas: tuple[float, float], *others: Any) -> dict[str, Any]:
    """The values of ADAM_OPTIONS as `adam` takes them."""
    named = dict(zip(ADAM_OPTIONS[1:], others, strict=True))
    return {"beta1": betas[0], "beta2": betas[1], **named, "foreach": False, "fused": True}


def _strength_now(group: dict[str, Any]) -> Any:
    """Of the isometry step of a group, which is taken every few updates."""
    every = group["iso_every"]
    return 0.0 if group["iso_updates"] % every else every * isometry_rate(group)
