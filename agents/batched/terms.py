"""What plasticity methods add to the update of a pack.

Where a loss depends on weights alone and its gradient is known, or on the hidden layers of MLPs, those of all runs are
computed at once; else each run computes its own, on its own networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from isorl.agents.batched.stack import Stack
from isorl.plasticity.methods import Batch, Method, MlpTerm, WeightTerm
from isorl.plasticity.penalties import Dense


@dataclass(frozen=True)
class Group:
    """The terms of one kind on the weights of one name, of N of the runs.

    Attributes:
        runs: which ones.
        penalty: R, whose gradient it adds.
        strengths: (N,).
        weights: (S, *shape) of all runs.
        gradients: (S, *shape) of all runs.
        given: what R needs besides: (N, ...) each.
    """

    runs: list[int]
    penalty: Callable[..., Tensor]
    strengths: Tensor
    weights: Tensor
    gradients: Tensor
    given: list[Tensor]

    def add(self, values: Tensor) -> None:
        """Adds the gradients where they belong, and the terms to `values` (S,)."""
        whole = len(self.runs) == len(self.weights)
        if whole:
            values += self.strengths * self.penalty(self.weights, self.gradients, self.strengths, *self.given)
            return
        weights, gradients = self.weights[self.runs], self.gradients[self.runs]
        values[self.runs] += self.strengths * self.penalty(weights, gradients, self.strengths, *self.given)
        self.gradients[self.runs] = gradients


@dataclass(frozen=True)
class MlpGroup:
    """The terms of one kind on the hidden layers of N of the runs.

    Attributes:
        runs: which ones.
        terms: of each.
        layers: of all runs.
        gradients: by each layer's weight and bias, of all runs.
    """

    runs: list[int]
    terms: list[MlpTerm]
    layers: list[Dense]
    gradients: list[tuple[Tensor, Tensor]]

    def add(self, values: Tensor, inputs: Tensor) -> None:
        """Adds the gradients where they belong, and the terms for `inputs` (S, B, I) to `values` (S,)."""
        chosen = slice(None) if len(self.runs) == len(inputs) else self.runs
        layers = [
            Dense(W[chosen].detach().requires_grad_(), b[chosen].detach().requires_grad_(), activation)
            for W, b, activation in self.layers
        ]
        _, penalty, options, _ = self.terms[0]
        strengths = torch.tensor([term.strength for term in self.terms])
        found = strengths * penalty(layers, inputs[chosen], [term.draw() for term in self.terms], *options)
        values[chosen] += found.detach()
        parameters = [parameter for layer in layers for parameter in layer[:2]]
        of_layers = torch.autograd.grad(found.sum(), parameters, allow_unused=True)
        for gradient, more in zip(chain(*self.gradients), of_layers, strict=True):
            if more is not None:
                gradient[chosen] += more


class Terms:
    """The methods of the runs of `stack`."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        acting = [
            sum(type(method).after_update is not Method.after_update for method in agent.methods)
            for agent in stack.agents
        ]
        self._acts, self._only_one_acts = any(acting), [count == 1 for count in acting]
        of_weights = [[(m, m.weight_terms()) for m in agent.methods] for agent in stack.agents]
        self._groups = self._grouped([[t for _, terms in own for t in terms] for own in of_weights])
        others = [
            [method for method, terms in own if not terms and type(method).loss is not Method.loss]
            for own in of_weights
        ]
        self._mlp_groups, self._others = self._of_mlps(others)
        self._parameters = stack.table.parameters if any(self._others) else []

    def _grouped(self, terms: Sequence[Sequence[WeightTerm]]) -> list[Group]:
        """The terms of every run, those of one kind together."""
        places = {
            id(parameter): (block, number, column)
            for block, found in enumerate(self._stack.table.blocks)
            for number, place in enumerate(found)
            for owners in place.owners
            for column, parameter in enumerate(owners)
        }
        alike: dict[Any, list[tuple[int, WeightTerm]]] = {}
        for run, own in enumerate(terms):
            for term in own:
                alike.setdefault((term.penalty, places[id(term.weight)]), []).append((run, term))
        values, gradients = self._stack.table.views(self._stack.table.values), self._stack.gradient_views
        return [
            Group(
                [run for run, _ in members],
                penalty,
                torch.tensor([term.strength for _, term in members]),
                values[block][number][:, column],
                gradients[block][number][:, column],
                [torch.stack(each) for each in zip(*(term.given for _, term in members), strict=True)],
            )
            for (penalty, (block, number, column)), members in alike.items()
        ]

    def _of_mlps(self, methods: list[list[Method]]) -> tuple[list[MlpGroup], list[list[Method]]]:
        """The terms on hidden layers, those of one kind together; and the methods of every run that have none."""
        layers, gradients = hidden_layers(self._stack)
        alike: dict[Any, list[tuple[int, MlpTerm]]] = {}
        others: list[list[Method]] = [[] for _ in methods]
        for run, own in enumerate(methods):
            for method in own:
                term = method.mlp_term() if layers else None
                if term is None:
                    others[run].append(method)
                else:
                    alike.setdefault((term.penalty, term.options), []).append((run, term))
        groups = [
            MlpGroup([run for run, _ in members], [term for _, term in members], layers, gradients)
            for members in alike.values()
        ]
        return groups, others

    def seen(self, inputs: np.ndarray) -> list[Batch]:
        """(S, B, I) -> what each run's methods see."""
        if not (self._acts or any(self._others)):
            return []
        hidden = cache(partial(self._stack.forward.hidden, inputs))  # of all runs, once it is asked for

        def of_run(run: int) -> list[Tensor]:
            networks = range(len(self._stack.forward.names))
            return [torch.from_numpy(h[run, network]) for network in networks for h in hidden()]

        # a method that has acted may have changed the weights for the next one
        one = self._only_one_acts
        return [
            Batch(partial(torch.from_numpy, row), hidden=partial(of_run, run) if one[run] else None)
            for run, row in enumerate(inputs)
        ]

    def add(self, inputs: np.ndarray, seen: Sequence[Batch]) -> np.ndarray | None:
        """Adds the gradients of every run's terms to those of its loss; gives back the terms (S,), None: none."""
        if not (self._groups or self._mlp_groups or any(self._others)):
            return None
        values = torch.zeros(len(self._stack.agents))
        with torch.no_grad():
            for group in self._groups:
                group.add(values)
        for each in self._mlp_groups:
            each.add(values, torch.from_numpy(inputs))
        if any(self._others):
            values += self._by_autograd(seen)
        return values.numpy()

    def _by_autograd(self, seen: Sequence[Batch]) -> Tensor:
        """The terms (S,) of the other methods."""
        zero = torch.zeros(())
        each = [
            sum((term for method in methods if (term := method.loss(batch)) is not None), zero)
            for methods, batch in zip(self._others, seen, strict=True)
        ]
        found = torch.stack(each)
        if found.requires_grad:
            self._stack.give_gradients()
            gradients = torch.autograd.grad(found.sum(), self._parameters, allow_unused=True)
            pairs = [
                (p.grad, more)
                for p, more in zip(self._parameters, gradients, strict=True)
                if more is not None
            ]
            torch._foreach_add_(*map(list, zip(*pairs, strict=True)))
        return found.detach()

    def after_update(self, seen: Sequence[Batch]) -> None:
        """Lets every run's methods act."""
        if not self._acts:
            return
        for agent, batch in zip(self._stack.agents, seen, strict=True):
            agent.methods.after_update(batch)
        if not self._stack.is_whole:
            self._stack.rebuild()


def hidden_layers(stack: Stack) -> tuple[list[Dense], list[tuple[Tensor, Tensor]]]:
    """The hidden layers of all runs, and the gradients by them; none where they are more than linear and activation."""
    body = next(iter(stack.agents[0].learner.networks.values()))[1]
    leaves = [module for module in body.modules() if not isinstance(module, nn.Sequential)]
    linears, activations = leaves[::2], leaves[1::2]
    plain = all(type(module) is nn.Linear and module.bias is not None for module in linears)
    if len(linears) != len(activations) or not plain or list(nn.ModuleList(activations).parameters()):
        return [], []
    values, gradients = (stack.table.views(stack.table.values)[0], stack.gradient_views[0])
    layers = [Dense(W, b, unit) for W, b, unit in zip(values[::2], values[1::2], activations, strict=True)]
    return layers, list(zip(gradients[::2], gradients[1::2], strict=True))


def terms_of(stack: Stack) -> Terms:
    """The terms of a stack as it is now."""
    if stack.terms is None:
        stack.terms = Terms(stack)
    return stack.terms
