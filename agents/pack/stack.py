"""Networks of one structure, held by several runs, computed and trained as one: a batched product per layer.

A stack puts the weights of all runs into one tensor and leaves each run a view of its own: parameters, gradients and
moments of a run stay where policies, methods, diagnostics and checkpoints look for them, and are always up to date.
Whatever changes more than their values (a method at a task switch) dissolves the stack; the next update builds anew.

Shapes: S runs, K = S times the networks of a run, B batch, I inputs, O outputs, P parameters of a network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, AdamW
from torch.optim.adam import adam

from agents.inference import NumpyMlp
from plasticity import AdamO
from plasticity.adamo import isometry_rate
from plasticity.linalg import isometry_descent
from plasticity.networks.activations import CReLU, DeepFourier, GroupSort, MaxMin

ALONG_FEATURES = (nn.ReLU, nn.Tanh, nn.LeakyReLU, nn.Identity, MaxMin, GroupSort, CReLU, DeepFourier)
"""Modules without parameters that act on the last dimension alone, and so on (K, B, I) as on (B, I)."""
SHARED_OPTIONS = ("betas", "eps", "weight_decay", "amsgrad", "maximize", "decoupled_weight_decay")
"""Of Adam; the stack takes one step for all, so these must be the same for all."""
MOMENTS = ("exp_avg", "exp_avg_sq")
VECTOR = 64
"""Numbers that a processor may take at once, or a multiple of them."""


class Unstackable(Exception):
    """Why these networks cannot be computed as one."""


def flat(like: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Zeros for all of `like` in one tensor (P,), and a view of it in the shape of each.

    No number shares the last vector of P: a processor rounds those left over from full vectors differently, and what a
    run learns would depend on how many others there are.
    """
    sizes = [-(-tensor.numel() // VECTOR) * VECTOR for tensor in like]
    whole = torch.zeros(sum(sizes) + VECTOR, dtype=like[0].dtype, device=like[0].device)
    parts = whole.split([*sizes, VECTOR])[:-1]
    return whole, [
        part[: tensor.numel()].view(tensor.shape) for part, tensor in zip(parts, like, strict=True)
    ]


class Rows:
    """The parameters of K modules of one structure, those of one name as one tensor.

    Args:
        modules: any number, alike.

    Attributes:
        owners: the parameters of each module.
        columns: the parameters of each name.
        leaves: (K, *shape) of every name; what the modules hold are views of them.

    Raises:
        Unstackable: they differ.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.owners = [list(module.parameters()) for module in modules]
        shapes = [[parameter.shape for parameter in owner] for owner in self.owners]
        if any(shape != shapes[0] for shape in shapes):
            raise Unstackable("their parameters have different shapes")
        self.columns = list(zip(*self.owners, strict=True))
        self.leaves = [torch.stack([p.detach() for p in column]).requires_grad_() for column in self.columns]
        self.share()

    def share(self) -> None:
        """Makes every owner's parameter a view of its leaf."""
        for column, leaf in zip(self.columns, self.leaves, strict=True):
            for parameter, row in zip(column, leaf.detach().unbind(), strict=True):
                parameter.data = row


class Networks:
    """What K networks of one structure compute, each on inputs of its own.

    Args:
        rows: their parameters.
        module: one of them.

    Raises:
        Unstackable: a layer that is not known here.
    """

    def __init__(self, rows: Rows, module: nn.Module) -> None:
        self.leaves = rows.leaves
        self._layers: list[tuple[Callable[..., Tensor], int]] = []  # with how many leaves each takes
        for layer in module.modules():
            if type(layer) is nn.Linear and layer.bias is not None:
                self._layers.append((_linear, 2))
            elif type(layer) is nn.LayerNorm and layer.elementwise_affine and layer.bias is not None:
                self._layers.append((partial(_layer_norm, layer.normalized_shape, layer.eps), 2))
            elif type(layer) in ALONG_FEATURES and getattr(layer, "dim", -1) == -1:
                self._layers.append((layer, 0))
            elif not isinstance(layer, nn.Sequential):
                raise Unstackable(f"it has the layer {layer}")

    def __call__(self, x: Tensor, leaves: Iterator[Tensor] | None = None) -> Tensor:
        """(K, B, I) -> (K, B, O), with the next of `leaves` instead of their own parameters where they are given."""
        following = iter(self.leaves) if leaves is None else leaves
        for layer, count in self._layers:
            x = layer(x, *islice(following, count))
        return x


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return (_Linear.apply if torch.is_grad_enabled() else _affine)(x, weight, bias)


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(K, B, I), (K, O, I), (K, O) -> (K, B, O)."""
    if len(x) == 1 and weight.shape[1] == 1:  # two alike: torch takes another way for a single such product
        return torch.baddbmm(
            bias.unsqueeze(1).expand(2, -1, -1), x.expand(2, -1, -1), weight.mT.expand(2, -1, -1)
        )[:1]
    return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)


class _Linear(torch.autograd.Function):
    """y = x W^T + b for K layers. Autograd would give the gradient of W^T, which had to be turned over."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(K, B, I), (K, O, I), (K, O) -> (K, B, O)."""
        ctx.save_for_backward(x, weight)
        return _affine(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """(K, B, O) -> the gradients of x (where it is wanted), W and b."""
        x, weight = ctx.saved_tensors
        of_x = torch.bmm(gradient, weight) if ctx.needs_input_grad[0] else None
        return of_x, torch.bmm(gradient.mT, x), gradient.sum(1)


def _layer_norm(shape: tuple[int, ...], eps: float, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.addcmul(bias.unsqueeze(1), F.layer_norm(x, shape, eps=eps), weight.unsqueeze(1))


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
        self.form = " ".join([*forms, *self.names])
        """Equal where the networks are alike up to their numbers and shapes."""
        if (
            any(len(chain) != 3 or not isinstance(chain[0], nn.Flatten) for chain in chains)
            or len(forms) != 1
        ):
            raise Unstackable("a network is no MLP, or they are not alike")
        bodies = Rows([chain[1] for chain in chains])
        self.rows = [bodies]
        self._body, self._head = chains[0][1], {name: networks[0][name][2] for name in self.names}
        self._bodies = Networks(bodies, self._body)
        self._heads = {}
        self._numpy: dict[str, NumpyMlp] | None = None
        for name in self.names:
            heads = Rows([run[name][2] for run in networks])
            self.rows.append(heads)
            self._heads[name] = Networks(heads, self._head[name])

    @property
    def leaves(self) -> list[Tensor]:
        """The parameters of all, in the order in which they are used."""
        return [leaf for rows in self.rows for leaf in rows.leaves]

    def __call__(self, x: Tensor, leaves: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """(S, B, I) -> name -> (S, B, O), with `leaves` instead of their own where they are given."""
        count, given = len(self.names), iter(self.leaves if leaves is None else leaves)
        many = x if count == 1 else x.expand(count, *x.shape).flatten(0, 1)
        features = self._bodies(many, given).split(self.runs)
        return {name: self._heads[name](part, given) for name, part in zip(self.names, features, strict=True)}

    @torch.no_grad()
    def answer(self, x: Tensor) -> dict[str, Tensor]:
        """The same for a few inputs without gradients, in numpy where it knows the layers: half the time."""
        if self._numpy is None:
            self._numpy = self._in_numpy()
        if not self._numpy or not self._numpy["body"].suits(x.shape[1]):
            return self(x)
        count = len(self.names)
        inputs = x.numpy()
        many = inputs if count == 1 else np.concatenate([inputs] * count)
        features = self._numpy["body"](many).reshape(count, self.runs, *x.shape[1:-1], -1)
        return {
            name: torch.from_numpy(self._numpy[name](part))
            for name, part in zip(self.names, features, strict=True)
        }

    def _in_numpy(self) -> dict[str, NumpyMlp]:
        """The body and each head; nothing where there is a layer that numpy does not know."""
        bodies, *heads = self.rows
        try:
            found = {"body": NumpyMlp(self._body, bodies.leaves)}
        except ValueError:
            return {}
        for (name, head), rows in zip(self._head.items(), heads, strict=True):
            found[name] = NumpyMlp(head, rows.leaves)
        return found


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
        self._columns = [column for rows in self.rows for column in rows.columns]
        self.leaves = [*self.forward.leaves, *self.outside]
        """What is trained: of every name, the parameters of all runs."""
        self._values, views = flat(self.leaves)
        for leaf, view in zip(self.leaves, views, strict=True):
            leaf.data = view.copy_(leaf.detach())
        for rows in self.rows:
            rows.share()
        self._gradients, self._gradient_views = flat(self.leaves)
        self._gradients_given = False
        self._take_moments()
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

    def update(
        self,
        gradients: Sequence[Tensor],
        max_norm: float,
        added: Tensor | None,
        own: Sequence[nn.Parameter],
    ) -> None:
        """One optimizer step of every run.

        Args:
            gradients: of the losses of all runs, by every one of `leaves`.
            max_norm: to which the gradient of each run is clipped.
            added: (S,) what methods add to the losses; None: nothing.
            own: the runs' parameters, on which `added` depends.
        """
        torch._foreach_copy_(self._gradient_views, list(gradients))
        self._give_gradients()
        if added is not None:
            found = torch.autograd.grad(added.sum(), own, allow_unused=True)
            pairs = [(p.grad, more) for p, more in zip(own, found, strict=True) if more is not None]
            torch._foreach_add_(*map(list, zip(*pairs, strict=True)))
        with torch.no_grad():
            self._clip(max_norm)
            self._step()

    def _give_gradients(self) -> None:
        """Makes every run's gradients views of those of all; before the first update it has none."""
        if self._gradients_given:
            return
        for column, gradient in zip(self._columns, self._gradient_views, strict=True):
            for parameter, row in zip(column, gradient.unbind(), strict=True):
                parameter.grad = row
        self._gradients_given = True

    def _clip(self, max_norm: float) -> None:
        """torch.nn.utils.clip_grad_norm_ of every run."""
        runs = len(self.agents)
        norms = [
            torch.linalg.vector_norm(view, dim=tuple(range(1, view.ndim))).view(-1, runs)
            for view in self._gradient_views
        ]
        norm = torch.linalg.vector_norm(torch.cat(norms).T.contiguous(), dim=1)
        factor = (max_norm / (norm + 1e-6)).clamp_(max=1.0)
        if (
            not factor.min() >= 1
        ):  # also where one is NaN; a look at a tensor on the CPU, where nothing is waited for
            for view in self._gradient_views:
                view.view(-1, runs, view[0].numel()).mul_(factor[:, None])

    def _step(self) -> None:
        group = self.optimizers[0].param_groups[0]
        self._isometry_step()
        adam(
            [self._values],
            [self._gradients],
            [self._moments[0]],
            [self._moments[1]],
            [],
            [self._steps],
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

    def _take_moments(self) -> None:
        """Makes the optimizer state of every run views of one tensor, and the count of its steps one for all."""
        states: dict[nn.Parameter, dict[str, Any]] = {}
        self._states: list[tuple[Any, nn.Parameter, dict[str, Any]]] = []
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    state = optimizer.state[parameter]
                    if not state:  # there has been no update yet
                        state["step"] = torch.zeros((), dtype=torch.float32)
                        state |= {name: torch.zeros_like(parameter) for name in MOMENTS}
                    states[parameter] = state
                    self._states.append((optimizer.state, parameter, state))
        if len({float(state["step"]) for state in states.values()}) != 1:
            raise Unstackable("they have taken different numbers of steps")
        self._steps = next(iter(states.values()))["step"].clone()
        for state in states.values():
            state["step"] = self._steps
        self._moments = []
        for name in MOMENTS:
            whole, views = flat(self.leaves)
            self._moments.append(whole)
            for column, view in zip(self._columns, views, strict=True):
                for parameter, row in zip(column, view.unbind(), strict=True):
                    states[parameter][name] = row.copy_(states[parameter][name])

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
