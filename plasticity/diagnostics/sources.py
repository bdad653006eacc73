"""Where the tensors of a forward pass come from: the weights that they are computed from, with none in between.

Every function of torch that is called on the way is seen, so that slices, sums and concatenations are followed. What
leaves torch on the way (numpy) is not, and then nothing is said to be without influence. A weight is known by a key:
the id of the module that computes with it, or its own where none does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, equal
from torch.overrides import TorchFunctionMode

# Functions, by name without underscores, that move numbers or add them up: what they are given they hand on as it was.
_MOVING = {
    *("add", "radd", "iadd", "sub", "subtract", "rsub", "isub", "sum", "mean", "detach", "to", "float"),
    *("get", "getitem", "setitem", "select", "narrow", "chunk", "split", "unbind", "copy", "clone", "double"),
    *("reshape", "view", "flatten", "unflatten", "ravel", "squeeze", "unsqueeze", "expand", "contiguous"),
    *("transpose", "permute", "movedim", "t", "cat", "concat", "concatenate", "stack", "hstack", "vstack"),
}
# Those in which a vector is a weight and not a bias or a scale.
_PRODUCTS = {"matmul", "rmatmul", "mv", "dot", "vdot", "inner", "linear", "einsum"}


class Sources(TorchFunctionMode):
    """Follows tensors by identity while it is entered.

    Attributes:
        called: keys in the order in which weights were last used, each with what its module read in every call; None
            where no module did.
        depth: of the modules that are being computed, whose weights are theirs.
        read: ids of the tensors of which a function outside of these modules has made something.
    """

    def __init__(self, matrices: Iterable[int], vectors: Iterable[int]) -> None:
        super().__init__()
        self.called: dict[int, list[Tensor | None]] = {}
        self.depth = 0
        self.read: set[int] = set()
        self._of: dict[int, frozenset[int]] = {}  # of what comes from the input
        self._vectors = frozenset(vectors)  # weights in products alone, else biases and scales
        # of what is computed from weights alone
        self._weights = {key: frozenset([key]) for key in (*matrices, *self._vectors)}
        self._is_changed: set[int] = set()  # ids of what is more than moved and added outputs of modules
        self._below: dict[int, frozenset[int]] = {}  # by a key: the sources of what it read
        self._is_followed = True
        self._alive: list[Tensor] = []  # ids stay unique only while the tensors live

    def begin(self, x: Tensor) -> Tensor:
        """Marks the input."""
        return self._remember(self._of, x, frozenset())

    def module(self, key: int, x: Tensor | None, given: list[Tensor], output: Any) -> None:
        """Files that a module with weights has made `output` of what it was `given`, `x` above all."""
        known = [self._of[id(x)] for x in given if id(x) in self._of]
        self._use([key], x, known)
        self._is_followed &= bool(known) or any(id(x) in self._weights for x in given)
        for y in tensors(output):
            self._remember(self._of, y, frozenset([key]))
            self._is_changed.discard(id(y))

    def last(self, output: Tensor) -> frozenset[int]:
        """Returns the keys that the output is computed from; what was called last where that is not known."""
        return self._of.get(id(output)) or frozenset([*self.called][-1:])

    def is_moved(self, output: Tensor) -> bool:
        """Says whether the output is known to be made of those of its last modules by moving and adding alone."""
        return id(output) in self._of and id(output) not in self._is_changed

    def used(self, output: Tensor) -> set[int]:
        """Returns the keys that the output depends on, all where that is not known."""
        if not (self._is_followed and id(output) in self._of):
            return {*self.called}
        found: set[int] = set()
        todo = [*self.last(output)]
        while todo:
            key = todo.pop()
            if key not in found:
                found.add(key)
                todo += self._below.get(key, ())
        return found

    def read_by(self, keys: Iterable[int]) -> Tensor | None:
        """Returns what these modules read, if it is the same, or the tensor of which each reads a part; else None."""
        read = [x for key in keys for x in self.called[key]]
        if not read or any(x is None for x in read):
            return None
        first, *others = (x for x in read if x is not None)
        if all(x is first or (x.shape == first.shape and equal(x, first)) for x in others):
            return first
        whole = first._base
        is_split = whole is not None and len(whole) == len(first) and all(x._base is whole for x in others)
        return whole if is_split else None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls a function, and files where its results come from."""
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "").strip("_")
        made = [args[0]] if name == "setitem" else tensors(result)
        if not made:  # a shape or the like
            return result
        given = tensors((args, kwargs or {}))
        if given:  # what is written in place on a view is in what it is a view of, too
            made = [*made, *(y._base for y in made if y is given[0] and y._base is not None)]
        self._compute(name, given, made)
        return result

    def _compute(self, name: str, given: list[Tensor], made: list[Tensor]) -> None:
        followed = [x for x in given if id(x) in self._of]
        known = [self._of[id(x)] for x in followed]
        weights = frozenset[int]()
        is_blank = name.startswith("new_") or name.endswith("_like")  # of a shape alone
        if self.depth == 0:
            self.read |= {id(x) for x in followed if not is_blank and any(y is not x for y in made)}
            operands = given[:2] if name in _PRODUCTS else given  # the third of `linear` is a bias
            weights = weights.union(*(self._weights.get(id(x), ()) for x in operands))
            if known and name not in _PRODUCTS:
                weights -= self._vectors
        if known and weights:
            self._use(weights, None, known)
        is_changed = name not in _MOVING or any(id(x) in self._is_changed for x in followed)
        is_changed &= not is_blank and not weights
        for y in made:
            if known:
                self._remember(self._of, y, weights or frozenset().union(*known))
                if is_changed:
                    self._is_changed.add(id(y))
            elif weights:
                self._remember(self._weights, y, weights)

    def _use(self, keys: Iterable[int], x: Tensor | None, known: list[frozenset[int]]) -> None:
        for key in keys:
            self.called[key] = [*self.called.pop(key, []), x]
            self._below[key] = self._below.get(key, frozenset()).union(*known)

    def _remember(self, known: dict[int, frozenset[int]], x: Tensor, keys: frozenset[int]) -> Tensor:
        self._alive.append(x)
        known[id(x)] = keys
        return x


def tensors(value: Any) -> list[Tensor]:
    """Returns the tensors in what a function takes or gives."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (tuple, list)):
        return []
    return [tensor for part in value for tensor in tensors(part)]
