"""Networks of one structure, held by several runs, computed and trained as one: a batched product per layer.

A stack puts the weights of all runs into one tensor and leaves each run a view of its own: parameters, gradients and
moments of a run stay where policies, methods, diagnostics and checkpoints look for them, and are always up to date.
Whatever changes more than their values (a method at a task switch) dissolves the stack; the next update builds anew.

Shapes: S runs, K = S times the networks of a run, B batch, I inputs, O outputs, P parameters of a network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, AdamW
from torch.optim.adam import adam

from plasticity import AdamO
from plasticity.adamo import isometry_rate
from plasticity.linalg import isometry_descent
from plasticity.networks.activations import CReLU, DeepFourier, GroupSort, MaxMin

Layer = Callable[[Tensor], Tensor]

ALONG_FEATURES = (nn.ReLU, nn.Tanh, nn.LeakyReLU, nn.Identity, MaxMin, GroupSort, CReLU, DeepFourier)
"""Modules without parameters that act on the last dimension alone, and so on (K, B, I) as on (B, I)."""
SHARED_OPTIONS = ("betas", "eps", "weight_decay", "amsgrad", "maximize", "decoupled_weight_decay")
"""Of Adam; the stack takes one step for all, so these must be the same for all."""


class Unstackable(Exception):
    """Why these networks cannot be computed as one."""


class Rows:
    """The parameters of K modules of one structure as the rows of one matrix.

    Args:
        modules: any number, alike.

    Raises:
        Unstackable: they differ.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.owners = [list(module.parameters()) for module in modules]
        self.shapes = [parameter.shape for parameter in self.owners[0]]
        if any([parameter.shape for parameter in owner] != self.shapes for owner in self.owners):
            raise Unstackable("their parameters have different shapes")
        with torch.no_grad():
            self.values = torch.stack([torch.cat([p.flatten() for p in owner]) for owner in self.owners])
            self.leaves = [leaf.requires_grad_() for leaf in self.views(self.values)]
            for column, leaf in enumerate(self.leaves):
                for owner, row in zip(self.owners, leaf.detach().unbind(), strict=True):
                    owner[column].data = row

    def views(self, matrix: Tensor) -> list[Tensor]:
        """(K, P) -> a view (K, *shape) of every parameter."""
        parts = matrix.split([shape.numel() for shape in self.shapes], dim=1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def give_gradients(self) -> None:
        """Makes every owner's gradient a view of one matrix."""
        self.gradients = torch.zeros_like(self.values)
        self.gradient_views = self.views(self.gradients)
        for column, view in enumerate(self.gradient_views):
            for owner, row in zip(self.owners, view.unbind(), strict=True):
                owner[column].grad = row

    def take_moments(self, states: dict[nn.Parameter, dict[str, Any]]) -> None:
        """Makes the moments of every owner's state views of one matrix, and their count of steps one tensor."""
        self.step = next(iter(states[self.owners[0][0]].values())).new_zeros(())
        self.step.copy_(states[self.owners[0][0]]["step"])
        self.moments = {}
        for name in ("exp_avg", "exp_avg_sq"):
            matrix = torch.stack(
                [torch.cat([states[p][name].flatten() for p in owner]) for owner in self.owners]
            )
            self.moments[name] = matrix
            for column, view in enumerate(self.views(matrix)):
                for owner, row in zip(self.owners, view.unbind(), strict=True):
                    states[owner[column]][name] = row
        for owner in self.owners:
            for parameter in owner:
                states[parameter]["step"] = self.step


class Networks:
    """What K networks of one structure compute, each on inputs of its own.

    Args:
        rows: their parameters.
        module: one of them.

    Raises:
        Unstackable: a layer that is not known here.
    """

    def __init__(self, rows: Rows, module: nn.Module) -> None:
        leaves = iter(rows.leaves)
        self._layers: list[Layer] = []
        for layer in module.modules():
            if type(layer) is nn.Linear and layer.bias is not None:
                self._layers.append(_linear(next(leaves), next(leaves)))
            elif type(layer) is nn.LayerNorm and layer.elementwise_affine and layer.bias is not None:
                self._layers.append(_layer_norm(layer, next(leaves), next(leaves)))
            elif type(layer) in ALONG_FEATURES and getattr(layer, "dim", -1) == -1:
                self._layers.append(layer)
            elif not isinstance(layer, nn.Sequential):
                raise Unstackable(f"it has the layer {layer}")

    def __call__(self, x: Tensor) -> Tensor:
        """(K, B, I) -> (K, B, O)."""
        for layer in self._layers:
            x = layer(x)
        return x


def _linear(weight: Tensor, bias: Tensor) -> Layer:
    return lambda x: torch.baddbmm(bias.unsqueeze(1), x, weight.mT)


def _layer_norm(layer: nn.LayerNorm, weight: Tensor, bias: Tensor) -> Layer:
    shape, eps = layer.normalized_shape, layer.eps
    return lambda x: torch.addcmul(
        bias.unsqueeze(1), F.layer_norm(x, shape, eps=eps), weight.unsqueeze(1)
    )


class Forward:
    """The networks of S runs: `forward(x)["critic"]`.

    Args:
        networks: of every run, name -> Sequential(Flatten, body, head).

    Raises:
        Unstackable: networks of another form, or not alike.
    """

    def __init__(self, networks: Sequence[dict[str, nn.Sequential]]) -> None:
        self.runs, self.names = len(networks), list(networks[0])
        chains = [run[name] for name in self.names for run in networks]  # all actors, then all critics
        forms = {str(list(chain)[:-1]) for chain in chains}
        if any(len(chain) != 3 or not isinstance(chain[0], nn.Flatten) for chain in chains) or len(forms) != 1:
            raise Unstackable("a network is no MLP, or they are not alike")
        bodies = Rows([chain[1] for chain in chains])
        self.rows = [bodies]
        self._bodies = Networks(bodies, chains[0][1])
        self._heads = {}
        for name in self.names:
            heads = Rows([run[name][2] for run in networks])
            self.rows.append(heads)
            self._heads[name] = Networks(heads, networks[0][name][2])

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        """(S, B, I) -> name -> (S, B, O)."""
        count = len(self.names)
        many = x if count == 1 else x.expand(count, *x.shape).flatten(0, 1)
        features = self._bodies(many).split(self.runs)
        return {name: self._heads[name](part) for name, part in zip(self.names, features, strict=True)}


class Stack:
    """Policies of S runs that are trained as one.

    Args:
        agents: fast ones on the CPU, alike in everything but their numbers.

    Raises:
        Unstackable: why they cannot be.
    """

    def __init__(self, agents: Sequence[Any]) -> None:
        self.agents = list(agents)
        self.optimizers = [agent.policy.optimizer for agent in agents]
        _check_optimizers(self.optimizers)
        self.forward = Forward([agent.learner.networks for agent in agents])
        self.rows = list(self.forward.rows)
        outside = [nn.ParameterList(agent.learner.outside()) for agent in agents]
        self.outside: list[Tensor] = []
        """Parameters of no network, such as log_std: (S, *shape) each."""
        if len(outside[0]):
            self.rows.append(Rows(outside))
            self.outside = self.rows[-1].leaves
        self._check_complete()
        self._states: list[tuple[Any, nn.Parameter, dict[str, Any]]] = []
        for rows in self.rows:
            rows.give_gradients()
            rows.take_moments(self._moments())
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                self._states += [(optimizer.state, p, optimizer.state[p]) for p in group["params"]]
        self._leaves = [leaf for rows in self.rows for leaf in rows.leaves]
        self._gradients = [view for rows in self.rows for view in rows.gradient_views]
        self._isometric = self._isometric_leaves()
        targets = [agent.learner.targets for agent in agents]
        self.targets = Forward(targets) if targets[0] else None
        """Target networks, which no optimizer trains."""

    def inputs(self, observations: np.ndarray | Tensor) -> Tensor:
        """(S, B, ...) observations -> (S, B, I), as the networks read them."""
        policy = self.agents[0].policy
        prepared = policy.prepared(torch.as_tensor(observations).flatten(0, 1))
        return prepared.reshape(*observations.shape[:2], -1)

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

    def update(self, loss: Tensor, max_norm: float, own_terms: Sequence[nn.Parameter] = ()) -> None:
        """One optimizer step of every run.

        Args:
            loss: the sum of the losses of all runs.
            max_norm: to which the gradient of each run is clipped.
            own_terms: parameters of runs on which the loss depends directly, not only through the stack.
        """
        count = len(self._leaves)
        gradients = torch.autograd.grad(loss, [*self._leaves, *own_terms], allow_unused=bool(own_terms))
        torch._foreach_copy_(self._gradients, list(gradients[:count]))
        for parameter, more in zip(own_terms, gradients[count:], strict=True):
            if more is not None:
                parameter.grad.add_(more)  # type: ignore[union-attr]
        with torch.no_grad():
            self._clip(max_norm)
            self._step()

    def _clip(self, max_norm: float) -> None:
        """torch.nn.utils.clip_grad_norm_ of every run."""
        runs = len(self.agents)
        squares = [rows.gradients.square().sum(1).view(-1, runs).sum(0) for rows in self.rows]
        norm = torch.stack(squares).sum(0).sqrt_()
        factor = (max_norm / (norm + 1e-6)).clamp_(max=1.0)
        for rows in self.rows:
            rows.gradients.view(-1, runs, rows.gradients.shape[1]).mul_(factor[:, None])

    def _step(self) -> None:
        group = self.optimizers[0].param_groups[0]
        self._isometry_step()
        rows = self.rows
        adam(
            [each.values for each in rows],
            [each.gradients for each in rows],
            [each.moments["exp_avg"] for each in rows],
            [each.moments["exp_avg_sq"] for each in rows],
            [],
            [each.step for each in rows],
            foreach=False,
            fused=True,
            decoupled_weight_decay=group["decoupled_weight_decay"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
        )

    def _isometry_step(self) -> None:
        """AdamO's, for all matrices of one shape at once."""
        if not isinstance(self.optimizers[0], AdamO):
            return
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["iso_updates"] += 1
        for leaf, group in self._isometric:
            if group["iso_updates"] % group["iso_every"] == 0:
                strength = group["iso_every"] * isometry_rate(group)
                leaf.add_(isometry_descent(leaf, strength, group["iso_target"]))

    def _isometric_leaves(self) -> list[tuple[Tensor, dict[str, Any]]]:
        """The (K, O, I) stacks on which the isometry step acts, with the options of the first run."""
        if not isinstance(self.optimizers[0], AdamO):
            return []
        group_of = {id(p): group for group in self.optimizers[0].param_groups for p in group["params"]}
        found = []
        for rows in self.rows:
            for parameter, leaf in zip(rows.owners[0], rows.leaves, strict=True):
                group = group_of[id(parameter)]
                if group["isometric"] and group["iso_lambda"] and parameter.ndim == 2:
                    found.append((leaf, group))
        return found

    def _moments(self) -> dict[nn.Parameter, dict[str, Any]]:
        """Parameter -> state, of all runs; made where there has been no update yet."""
        states: dict[nn.Parameter, dict[str, Any]] = {}
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    state = optimizer.state[parameter]
                    if not state:
                        state["step"] = torch.zeros((), dtype=torch.float32)
                        state["exp_avg"] = torch.zeros_like(parameter)
                        state["exp_avg_sq"] = torch.zeros_like(parameter)
                    states[parameter] = state
        if len({float(state["step"]) for state in states.values()}) != 1:
            raise Unstackable("they have taken different numbers of steps")
        return states

    def _check_complete(self) -> None:
        held = {id(parameter) for rows in self.rows for owner in rows.owners for parameter in owner}
        trained = {id(p) for opt in self.optimizers for group in opt.param_groups for p in group["params"]}
        if held != trained:
            raise Unstackable("the optimizer trains other parameters than those of the networks")


def _check_optimizers(optimizers: Sequence[Any]) -> None:
    """Refuses what one fused Adam step cannot do for all."""
    first = optimizers[0]
    if type(first) not in (Adam, AdamW, AdamO):
        raise Unstackable(f"the optimizer is {type(first).__name__}")
    if any(optimizer._optimizer_step_pre_hooks for optimizer in optimizers):
        raise Unstackable("each run looks at its gradients before it takes a step")
    forms = [[_form(group) for group in optimizer.param_groups] for optimizer in optimizers]
    if any(form != forms[0] for form in forms):
        raise Unstackable("their optimizers have different options")
    if len({str(form["adam"]) for form in forms[0]}) != 1 or first.param_groups[0]["amsgrad"]:
        raise Unstackable("parameter groups have different options of Adam")


def _form(group: dict[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in group.items() if key.startswith("iso")}
    return {"adam": {key: group[key] for key in (*SHARED_OPTIONS, "lr")}, "isometry": own}
