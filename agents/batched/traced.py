"""Functions that read a policy's weights, as a straight line of numpy operations over the weights of S runs.

Autograd makes a graph and walks back through it for every minibatch; for arrays of some hundred numbers that takes
longer than the numbers. torch's make_fx writes down once which operations a text and its derivative come to, under
torch's vmap over the runs, the very ones that autograd would call; they are computed in numpy (aten.py) from then on.

Shapes: S runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._guards import TracingContext, tracing
from torch._subclasses import FakeTensorMode
from torch.func import functional_call, vmap
from torch.fx import Graph, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.graph import CodeGen
from torch.fx.node import map_arg

from isorl.agents.batched.aten import aten, columns_of, in_numpy, product_by_columns

MANY, SMALL_PRODUCT = 16, 1_000_000
"""Samples from which on transposing products pays, and multiplications in a layer from which on it does not."""
HANDED_ON = (aten.detach.default, aten.alias.default)
"""Operations that return their argument; in numpy there is no graph to leave."""
SHAPED = (aten.expand.default, aten.view.default, aten._unsafe_view.default)
"""Operations that change at most the shape of their argument."""
FILLED = (aten.ones_like.default, aten.zeros_like.default)
"""Operations whose result depends on the shape of their argument alone."""


def traced(
    policy: nn.Module,
    function: Callable[..., Sequence[Tensor] | Mapping[str, Tensor]],
    weights: Mapping[str, Tensor],
    given: Sequence[Tensor],
    differentiated: Sequence[str] = (),
) -> tuple[Callable[..., list[np.ndarray]], list[str]]:
    """Returns what `function` computes for S runs, as a function of arrays: all `weights`, then all `given`.

    Args:
        policy: of one of the runs; what `function` reads besides weights is as it is now, for all runs and for ever.
        function: from tensors, given one by one, to tensors of which the first is a number where it is differentiated.
        weights: (S, *shape) of the policy's parameters by name.
        given: (S, ...) examples.
        differentiated: names of weights; the gradients of the first result by these follow the results.

    Returns:
        The function, and the names of its results where `function` names them.
    """
    module, names = _Module(policy, function), list[str]()

    def of_run(own: Sequence[Tensor], given: Sequence[Tensor]) -> Any:
        named = {f"policy.{name}": weight for name, weight in zip(weights, own, strict=True)}
        return functional_call(module, named, tuple(given))

    def of_all(own: list[Tensor], given: list[Tensor]) -> list[Tensor]:
        leaves = [weight.detach().requires_grad_() for weight in own]
        found = vmap(of_run)(leaves, given)
        if isinstance(found, dict):
            names[:] = found
        results = list(found.values() if isinstance(found, dict) else found)
        if differentiated:
            named = dict(zip(weights, leaves, strict=True))
            by = [named[name] for name in differentiated]
            results += torch.autograd.grad(results[0].sum(), by, allow_unused=True, materialize_grads=True)
        return [result.detach() for result in results]

    with tracing(TracingContext(FakeTensorMode())):  # else make_fx makes a mode for the shape of every result
        graph = make_fx(of_all)([weight.detach() for weight in weights.values()], list(given))
    return _straight(graph), names


def why_not_traced(policy: Any) -> str | None:
    """Returns why `traced` must not be given functions of this policy; None where it may."""
    if policy.is_cnn:
        return "a network is no MLP"
    if any(True for _ in policy.buffers()):
        return "a layer keeps more than its weights"
    return None


class Traces:
    """What has been traced, by keys of the caller's."""

    def __init__(self) -> None:
        self._trusted: dict[Any, Any] = {}
        self._doubted: dict[Any, Any] = {}

    def doubt(self) -> None:
        """Is called where modules may have changed: what is here is compared with them before it answers again."""
        self._doubted |= self._trusted
        self._trusted.clear()

    def get(self, key: Any, trace: Callable[[], Any], agrees: Callable[[Any], bool]) -> Any:
        """Returns what is here, where it still `agrees` with the modules; else what `trace` makes of them."""
        if key not in self._trusted:
            former = self._doubted.pop(key, None)
            self._trusted[key] = former if former is not None and agrees(former) else trace()
        return self._trusted[key]


def close(results: Iterable[Any], expected: Iterable[Any]) -> bool:
    """Tells whether arrays are as near to others as two orders of summation leave them, NaN where they are NaN."""
    pairs = zip(results, expected, strict=False)
    return all(np.allclose(ours, theirs, 1e-4, 1e-5, equal_nan=True) for ours, theirs in pairs)


class _Module(nn.Module):
    """A function as a module, so that torch puts other tensors in the place of its policy's parameters."""

    def __init__(self, policy: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.policy, self.forward = policy, function


def _straight(module: Any) -> Callable[..., list[np.ndarray]]:
    """Puts numpy's functions in the place of torch's operations."""
    graph, known = module.graph, dict[Node, Any]()
    graph.eliminate_dead_code()
    in_place = {node for node in graph.nodes if node.op == "call_function" and node.is_impure()}
    written = {target for node in in_place for target in _first_arguments(node)}
    by_columns, columns = _products_by_columns(graph), dict[Node, Node]()
    for node in list(graph.nodes):
        if node.op == "get_attr":
            known[node] = getattr(module, str(node.target)).numpy()
        if node.op != "call_function":
            continue
        if _is_handed_on(node, written):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
            continue
        if node in by_columns:
            a, b = node.args
            if a not in columns:
                with graph.inserting_before(node):
                    columns[a] = graph.call_function(columns_of, (a,))
            node.target, node.args = product_by_columns, (columns[a], b)
            continue
        node.target, target = in_numpy(node.target), node.target
        if node in written:
            continue
        if target in FILLED:
            known[node] = node.target(np.empty(tuple(node.meta["val"].shape), np.float32))
        elif known.keys() >= set(node.all_input_nodes):
            args, kwargs = map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*args, **kwargs)
    for number, (node, value) in enumerate(known.items()):  # what depends on no argument is computed once
        setattr(module, f"known{number}", value)
        with graph.inserting_before(node):
            node.replace_all_uses_with(graph.create_node("get_attr", f"known{number}"))
    graph.set_codegen(CodeGen())  # flat arguments, a flat list of results
    graph.eliminate_dead_code(lambda node: node in in_place or node.is_impure())
    module.recompile()
    return module.forward


def _products_by_columns(graph: Graph) -> set[Node]:
    """Returns the products that are computed by columns.

    BLAS multiplies small matrices row by row at a third of its speed for row by column. So where a minibatch is small,
    the samples of a feature lie together in memory in all layers; and those of weights' gradients as in the weights.
    """
    products = {node: node.args[0] for node in graph.nodes if node.target is aten.bmm.default}
    over_samples = {node for node, first in products.items() if first.target is aten.transpose.int}
    rows = [first.meta["val"].shape[-2] for node, first in products.items() if node not in over_samples]
    sizes = [first.meta["val"][0].numel() * node.meta["val"].shape[-1] for node, first in products.items()]
    small = min(rows, default=0) >= MANY and max(sizes) < SMALL_PRODUCT
    return set(products) if small else over_samples


def _first_arguments(node: Node) -> Iterator[Node]:
    """Yields `node`, what it may write into, and whatever that may be a view of."""
    while isinstance(node, Node):
        yield node
        node = node.args[0] if node.args else None  # type: ignore[assignment]


def _is_handed_on(node: Node, written: set[Node]) -> bool:
    """Tells whether a node is its first argument and no more, or a copy of it that nobody writes into."""
    if node.target in SHAPED:
        return node.meta["val"].shape == node.args[0].meta["val"].shape  # type: ignore[union-attr]
    if node.target is aten.mul.Scalar:
        return bool(node.args[1] == 1) and node not in written
    return node.target in HANDED_ON
