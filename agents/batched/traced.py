"""A loss and its gradient as a straight line of numpy operations, traced from the loss's own text.

Autograd makes a graph and walks back through it for every minibatch; for arrays of some hundred numbers that takes
longer than the numbers. torch's make_fx writes down once which operations the text and its derivative come to, the very
ones that autograd would call, and they are computed in numpy (aten.py) from then on. Every CHECK_EVERY-th time the
text is asked as well: a loss that does something else than it did when it was traced (numbers of Python's that change)
goes on by autograd.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.graph import CodeGen
from torch.fx.node import map_arg

from isorl.agents.batched.aten import OPERATIONS, SHAPES_ONLY, aten

LOG = logging.getLogger("isorl")
CHECK_EVERY = 100
CHANGED = "the loss is not what it was when it was traced: it is differentiated by autograd from now on"
TOLERANCE = dict(rtol=1e-4, atol=1e-5, equal_nan=True)


class _Given:
    """Stands in for a network whose outputs for one input are known."""

    def __init__(self, x: Tensor, outputs: dict[str, Tensor]) -> None:
        self._x, self._outputs = x, outputs

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        if x is not self._x:
            raise ValueError("the loss asks a network for something else than the minibatch")
        return self._outputs


class TracedLosses:
    """The losses of a learner, traced for each shape of a minibatch and each set of coefficients.

    Args:
        learner: has `networks`, which are learned, and `other_networks`: an attribute with others -> the column of a
            minibatch that they are asked for.
    """

    def __init__(self, learner: Any) -> None:
        self._learner = learner
        self._graphs: dict[Any, _Graph | None] = {}
        self._calls = 0

    def __call__(self, loss: Callable[..., Any], *arguments: Any) -> Any:
        """Returns what `loss` returns, (S,) or (S,) with terms by name; differentiable by the networks' parameters."""
        batch = next(each for each in arguments if hasattr(each, "observations"))
        key = (loss, batch.observations.shape, self._learner.numbers)
        if key not in self._graphs:
            self._graphs[key] = self._traced(loss, arguments, batch)
        graph = self._graphs[key]
        if graph is None:
            return loss(*arguments)
        self._calls += 1
        if self._calls % CHECK_EVERY == 0 and not self._agrees(loss, arguments, batch, graph):
            LOG.warning(CHANGED)
            self._graphs[key] = None
            return loss(*arguments)
        return graph.result(
            _Layers.apply(self._learner.anchor, self._learner.networks, graph, self._others(batch), batch)
        )

    def _others(self, batch: Any) -> list[Tensor]:
        """Returns the outputs of networks that are not learned."""
        found = []
        with torch.no_grad():
            for name, column in self._learner.other_networks.items():
                found += getattr(self._learner, name)(getattr(batch, column)).values()
        return found

    def _agrees(self, loss: Any, arguments: Any, batch: Any, graph: _Graph) -> bool:
        with torch.no_grad():
            text, _ = _parts(loss(*arguments))
            outputs, _ = self._learner.networks.forward_with_cache(batch.observations.numpy())
            values, *_ = graph(outputs, self._others(batch), batch)
        return torch.allclose(text, torch.from_numpy(values), **TOLERANCE)  # type: ignore[arg-type]

    def _traced(self, loss: Any, arguments: tuple[Any, ...], batch: Any) -> _Graph | None:
        """Traces `loss`; None where that is not possible, with a line in the log."""
        learner = self._learner
        with torch.no_grad():
            own, text = learner.networks(batch.observations), loss(*arguments)
            others = {
                name: getattr(learner, name)(getattr(batch, column))
                for name, column in learner.other_networks.items()
            }
        columns = {
            name: column for name, column in zip(batch._fields, batch, strict=True) if column is not None
        }
        terms: list[str] = []

        def straight(outputs: list[Tensor], known: list[Tensor], given: list[Tensor]) -> list[Tensor]:
            """Computes the loss, its terms and the gradients of `outputs`."""
            there = dict(zip(columns, given, strict=True))
            minibatch = type(batch)(*(there.get(name) for name in batch._fields))
            stands = {"networks": _Given(minibatch.observations, dict(zip(own, outputs, strict=True)))}
            values = iter(known)
            for name, column in learner.other_networks.items():
                stands[name] = _Given(
                    getattr(minibatch, column), {output: next(values) for output in others[name]}
                )
            with learner.standing_in(stands):
                value, by_name = _parts(loss(*(minibatch if each is batch else each for each in arguments)))
            terms[:] = by_name
            slopes = torch.autograd.grad(value.sum(), outputs)
            return [value.detach(), *(term.detach() for term in by_name.values()), *slopes]

        leaves = [value.detach().requires_grad_() for value in own.values()]
        known = [value for each in others.values() for value in each.values()]
        try:
            module = make_fx(straight)(leaves, known, list(columns.values()))
            _into_numpy(module)
            graph = _Graph(module.forward, list(columns), list(terms), isinstance(text, tuple))
            if self._agrees(loss, arguments, batch, graph):
                return graph
            reason = "numpy computes another one"
        except Exception as error:  # of a loss that does what cannot be traced, or of an operation in numpy
            reason = str(error).splitlines()[0]
        LOG.info("the loss is differentiated by autograd at every minibatch: %s", reason)
        return None


def _into_numpy(module: GraphModule) -> None:
    """Puts numpy's functions in the place of torch's operations.

    Raises:
        NotImplementedError: operations for which there is none.
    """
    graph, known = module.graph, dict[Node, Any]()
    unknown = {str(node.target) for node in graph.nodes if node.op == "call_function"} - set(
        map(str, OPERATIONS)
    )
    if unknown:
        raise NotImplementedError(f"numpy does not know {', '.join(sorted(unknown))}")
    graph.eliminate_dead_code()
    for node in list(graph.nodes):
        if node.op == "get_attr":
            known[node] = getattr(module, str(node.target)).numpy()
        if node.op != "call_function":
            continue
        if node.target in (aten.detach.default, aten.alias.default):
            node.replace_all_uses_with(node.args[0])  # in numpy there is no graph to leave
            graph.erase_node(node)
        else:
            node.target, target = OPERATIONS[node.target], node.target
            if target in SHAPES_ONLY:
                known[node] = node.target(np.empty(tuple(node.meta["val"].shape), np.float32))
            elif known.keys() >= set(node.all_input_nodes):
                args, kwargs = map_arg((node.args, node.kwargs), known.__getitem__)
                known[node] = node.target(*args, **kwargs)
    for number, (node, value) in enumerate(
        known.items()
    ):  # what does not depend on the minibatch is computed once
        setattr(module, f"known{number}", value)
        with graph.inserting_before(node):
            node.replace_all_uses_with(graph.create_node("get_attr", f"known{number}"))
    graph.set_codegen(CodeGen())  # flat arguments, a flat list of results
    graph.eliminate_dead_code()
    module.recompile()


class _Graph:
    """A traced loss: (networks' outputs, other outputs, minibatch) -> loss, terms and gradients of the outputs."""

    def __init__(
        self, straight: Callable[..., Any], columns: list[str], terms: list[str], has_terms: bool
    ) -> None:
        self._straight, self._columns = straight, columns
        self.terms, self._has_terms = terms, has_terms

    def __call__(self, outputs: list[Tensor], others: list[Tensor], batch: Any) -> list[np.ndarray]:
        given = (*outputs, *others, *(getattr(batch, name) for name in self._columns))
        return self._straight(*(tensor.numpy() for tensor in given))

    def result(self, values: tuple[Tensor, ...]) -> Any:
        """Gives the values the form in which the loss's text returns them."""
        return (values[0], dict(zip(self.terms, values[1:], strict=True))) if self._has_terms else values[0]


class _Layers(torch.autograd.Function):
    """The networks and a traced loss as one node of autograd's graph."""

    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, networks: Any, graph: _Graph, others: list[Tensor], batch: Any
    ) -> Any:
        """Computes the loss and its terms."""
        outputs, ctx.cache = networks.forward_with_cache(batch.observations.numpy())
        values = graph(outputs, others, batch)
        count = 1 + len(graph.terms)
        ctx.networks, ctx.slopes = networks, values[count:]
        loss, *terms = map(torch.from_numpy, values[:count])
        ctx.mark_non_differentiable(*terms)
        return loss, *terms

    @staticmethod
    def backward(ctx: Any, by_loss: Tensor, *_: Any) -> tuple[None, ...]:
        """Lets the kernels put the gradients where they belong."""
        scale, slopes = by_loss.numpy(), ctx.slopes
        if not (scale == 1).all():
            slopes = [slope * scale.reshape(-1, *[1] * (slope.ndim - 1)) for slope in slopes]
        ctx.networks.backward(slopes, ctx.cache)
        return (None,) * 5


def _parts(loss: Any) -> tuple[Tensor, dict[str, Tensor]]:
    return loss if isinstance(loss, tuple) else (loss, {})
