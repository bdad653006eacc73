"""A record of one forward pass: what went into and came out of every layer, and into its activation.

Shapes: B batch, I inputs, O outputs of a layer, T positions (pixels, sequence steps, repeated calls).

Layers are found by running the network, not by its structure: an activation belongs to the layer whose output
reached it, through norms, dropout or reshaping, and the head is what the output is computed from, whatever was called
last. What the record cannot attribute is listed by name. The network goes on with copies of what is recorded, so that
operations in place leave the record as it was.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from isorl.plasticity.diagnostics.sources import Sources, tensors
from isorl.plasticity.linalg import at_least_single
from isorl.plasticity.networks.activations import ELEMENTWISE
from isorl.plasticity.networks.isometric import Shift, effective_weight
from isorl.plasticity.roles import CONVOLUTIONS, NORMS, is_matrix_layer

ROWS_TRIED = 16
"""Samples and positions on which a module is tried before it counts as an activation."""

# Modules that only reorder what they are given, or nothing at all.
_RESHAPING = (nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd)
# Modules without parameters that are no activation: what a layer has under them is no diag(d) W.
_MIXING = (nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Softmax2d)
# Modules that hand on a layer's output without being its activation.
_PASSING = (
    *_RESHAPING,
    *NORMS,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.Upsample,
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    Shift,
)


class NotMeasurableError(RuntimeError):
    """Says that a figure cannot be had of this network, naming what stands in the way."""


@dataclass(eq=False)
class Layer:
    """Holds a linear or convolution layer, or a norm, and what the forward pass showed of it.

    Attributes:
        name: short and stable, such as conv1 or linear4.
        path: where the module is in the network.
        module: the layer.
        inputs: one entry per call, as the following lists.
        outputs: of the layer, in the shape of which `before` and `after` are.
        activation: the module behind it, if any.
        before: what went into the activation.
        after: what came out of it, the layer's units.
        feeds: whether a layer reads the output as it is.
        is_last: whether the network's output is computed from its output with no other weight in between.
        is_output: whether, besides, its output is in the network's as it was, moved or added to others alone.
        is_idle: whether the network's output does not depend on it, such as a layer of another head.
        is_ambiguous: whether something else reads it than its activation, layers and norms: several modules that
            could be its activation, one that learns or that is no function of one sample and position, or a function.
    """

    name: str
    path: str
    module: nn.Module
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    activation: nn.Module | None = None
    before: list[Tensor] = field(default_factory=list)
    after: list[Tensor] = field(default_factory=list)
    feeds: bool = False
    is_last: bool = False
    is_output: bool = False
    is_idle: bool = False
    is_ambiguous: bool = False

    @property
    def channels_first(self) -> bool:
        """Says whether features are dimension 1 (images) rather than the last (vectors)."""
        return isinstance(self.module, CONVOLUTIONS)

    @property
    def is_understood(self) -> bool:
        """Says whether one thing is known to follow: an activation, the next layer or the network's output."""
        if self.activation is None and not self.feeds:
            return self.is_output
        return not self.is_ambiguous and (self.activation is None or not self.feeds)

    def weight(self) -> Tensor:
        """Returns the matrix (O, I) the layer multiplies by, at least in single precision, without a graph."""
        weight = effective_weight(self.module).detach()
        return at_least_single(weight.reshape(weight.shape[0], -1))

    def units(self) -> Tensor:
        """Returns the outputs of the activation as (samples and positions, units)."""
        return torch.cat([rows(h, self.channels_first) for h in self.after])


@dataclass(eq=False)
class ActivationRecord:
    """Holds the layers and norms of a network in the order of the pass, its ends, and what was not understood.

    Attributes:
        layers: those that multiply by one matrix; see `is_matrix_layer`.
        norms: the norm layers.
        input: (B, ...).
        output: (B, ...).
        read_last: what the last modules with a weight were given, if all the same; None where no call shows it.
        last: paths of the modules with a weight, or names of weights, that the output is computed from.
        unmeasured: other modules with weight matrices, of which there are no layer figures.
    """

    layers: list[Layer]
    norms: list[Layer]
    input: Tensor
    output: Tensor
    read_last: Tensor | None
    last: list[str]
    unmeasured: list[str]

    def hidden(self) -> list[Layer]:
        """Returns the layers that the output depends on but heads, which are free by design: last, no activation."""
        used = [layer for layer in self.layers if not layer.is_idle]
        hidden = [layer for layer in used if not layer.is_last or layer.activation is not None]
        return hidden or used

    def understood(self) -> list[Layer]:
        """Returns the layers that the output depends on, and whose activation is known, or known to be none."""
        return [layer for layer in self.layers if layer.is_understood and not layer.is_idle]

    def features(self) -> Tensor:
        """Returns what the last module with a weight reads, or all of them, if it is the same: (B, F)."""
        features = self.read_last
        if features is None and len(self.last) > 1:
            raise NotMeasurableError(
                f"the output is computed from several last layers that read different features: "
                f"{', '.join(self.last)}. Wrap the network once per head, each wrapper returning one head's output"
            )
        if features is None or features.ndim < 2 or not features.is_floating_point() or not features.numel():
            named = f"; not understood: {', '.join(self.unmeasured)}" if self.unmeasured else ""
            raise NotMeasurableError(
                f"no module call, or no single one, shows which features the last layer reads{named}"
            )
        if len(features) != len(self.output):
            raise NotMeasurableError(
                f"the last layer reads {tuple(features.shape)}, whose rows are not the {len(self.output)} samples"
            )
        return features.flatten(1)

    def notes(self) -> list[str]:
        """Says in words what the layer figures leave out."""
        found = []
        idle = [layer.path or layer.name for layer in self.layers if layer.is_idle]
        if idle:
            found.append(
                f"the output does not depend on {', '.join(idle)}: no part in the figures of the whole"
            )
        used = [layer for layer in self.layers if not layer.is_idle]
        unclear = [layer.path or layer.name for layer in used if not layer.is_understood]
        if unclear:
            found.append(
                f"what follows {', '.join(unclear)} is not one activation module: no units and no Jacobian of "
                "these. Functional activations (F.relu) are invisible: use modules. Something else may come first, "
                "such as a sum of two branches"
            )
        if self.unmeasured:
            found.append(f"no layer figures of {', '.join(self.unmeasured)}")
        if not self.layers:
            found.append("no linear or convolution layer was called")
        return found


def rows(x: Tensor, channels_first: bool) -> Tensor:
    """Returns (B, O, H, W) or (B, ..., O) as (B T, O)."""
    return (x.movedim(1, -1) if channels_first else x).reshape(-1, x.shape[1 if channels_first else -1])


def record(network: nn.Module, batch: Tensor) -> ActivationRecord:
    """Runs `network` on `batch` (B, ...) and records it. See `undisturbed`.

    Raises:
        ValueError: the network does not return one tensor with a row for every sample.
        NotMeasurableError: it changes in place what a layer has read.
    """
    recorder, output = _followed(network, batch)
    if not isinstance(output, Tensor):
        raise ValueError(
            f"diagnostics need a network that returns one tensor, got {type(output).__name__}. Of several heads, wrap "
            "the network once per head: a module whose forward pass returns that head's output"
        )
    if output.ndim == 0 or len(output) != len(batch) or output.numel() == 0:
        raise ValueError(
            f"diagnostics need an output for each of the {len(batch)} samples, got shape {tuple(output.shape)}"
        )
    recorded = recorder.result(batch, output)
    _confirm_idle(network, recorded)
    _confirm_rows(network, recorded)
    return recorded


def _followed(network: nn.Module, batch: Tensor) -> tuple[_Recorder, Any]:
    recorder = _Recorder(network)
    with recorder.listening():
        return recorder, network(recorder.sources.begin(batch.clone()))  # which it may change in place


def _confirm_idle(network: nn.Module, recorded: ActivationRecord) -> None:
    """Asks autograd, too, whether layers are idle: a scripted function is seen by it alone."""
    idle = [layer for layer in recorded.layers if layer.is_idle]
    if not idle:
        return
    layers, f = recorded.layers, recorded.output
    if not f.requires_grad:
        few = recorded.input[:2].detach()
        with torch.enable_grad():
            recorder, f = _followed(network, few.requires_grad_(few.is_floating_point()))
        layers = recorder.layers
    Z = [(id(layer.module), z) for layer in layers for z in layer.outputs if z.requires_grad]
    unreached = set[int]()
    if f.requires_grad and Z:
        outputs, ones = [z for _, z in Z], torch.ones_like(f)
        signals = torch.autograd.grad(f, outputs, ones, retain_graph=True, allow_unused=True)
        reached = {key for (key, _), signal in zip(Z, signals, strict=True) if signal is not None}
        unreached = {key for key, _ in Z} - reached
    for layer in idle:
        layer.is_idle = id(layer.module) in unreached


def _confirm_rows(network: nn.Module, recorded: ActivationRecord) -> None:
    """Tells a batch from as many time steps, where what the last layer reads could begin with either."""
    x, read = recorded.input, recorded.read_last
    if read is None or len(x) == 1 or len(x) not in read.shape[1:-1] or len(read) != len(x):
        return
    recorder, output = _followed(network, x[:-1].detach())
    fewer = recorder.sources.read_by(recorder.sources.last(output))
    if fewer is None or len(fewer) != len(x) - 1:
        recorded.read_last = None


class _Origin(NamedTuple):
    """Where a tensor comes from that the network holds: a layer's output, handed on."""

    layer: Layer
    output: Tensor  # of the layer
    value: Tensor  # what the tensor held when it was handed on, in the output's shape while only reshaped
    version: int = 0  # of the tensor then; operations in place raise it


class _Recorder:
    """Forward hooks on the parts of a network; `origins` follows each layer's output by tensor identity."""

    def __init__(self, network: nn.Module):
        self.network = network
        self.parts = _parts(network)
        self.layers: list[Layer] = []
        self.norms: list[Layer] = []
        self.origins: dict[int, _Origin] = {}
        self.activated: dict[int, Layer] = {}  # by the output of its activation
        self.behind: list[tuple[nn.Module, Layer, Tensor, Tensor]] = []  # what read that: the layer, x and y
        self.swapped: set[int] = set()  # ids of layers that were called with weights not their own
        parameters = dict(network.named_parameters())
        self.own = {id(p): name for name, p in parameters.items()}
        matrices = {id(p) for p in parameters.values() if is_lazy(p) or p.ndim > 1}
        vectors = {id(p) for p in parameters.values() if p.ndim == 1} - matrices
        layers = [m for m in self.parts.values() if not isinstance(m, NORMS)]
        self.with_matrix = {id(m) for m in layers if matrices & {id(p) for p in m.parameters()}}
        self.sources = Sources(matrices, vectors)
        self.alive: list[Tensor] = []  # ids stay unique only while the tensors live
        self.read: list[tuple[str, Tensor, int]] = []  # by whom, what, in which version

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        hooks = [(module, self._hook(path)) for path, module in self.parts.items()]
        handles = [module.register_forward_hook(hook, with_kwargs=True) for module, hook in hooks]
        # first of all hooks: those of torch.nn.utils.weight_norm read weights, too
        handles += [m.register_forward_pre_hook(self._enter, prepend=True) for m in self.parts.values()]
        try:
            with self.sources:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def result(self, batch: Tensor, output: Tensor) -> ActivationRecord:
        """Returns the record of a pass.

        Raises:
            NotMeasurableError: something was changed in place after a layer had read it.
        """
        for path, x, version in self.read:
            if x._version != version:
                raise NotMeasurableError(f"what {path or 'the module'} read was changed in place afterwards")
        last, used = self.sources.last(output), self.sources.used(output)
        is_moved, ends = self.sources.is_moved(output), self.origins.get(id(output))
        for layer in self.layers:
            layer.is_last, layer.is_idle = id(layer.module) in last, id(layer.module) not in used
            layer.is_output = layer.is_last and (is_moved or (ends is not None and ends.layer is layer))
            layer.is_ambiguous |= id(layer.module) in self.swapped
            self._judge_activation(layer)
        for key in self.origins.keys() & self.sources.read:
            self.origins[key].layer.is_ambiguous = True
        for module, layer, x, y in self.behind:
            layer.is_ambiguous |= _is_by_row(module, x, y, layer.channels_first)
        layers = {id(layer.module) for layer in self.layers}
        called = {path: m for path, m in self.parts.items() if id(m) in self.sources.called}
        others = {path: m for path, m in called.items() if id(m) not in layers}
        outside = [name for key, name in self.own.items() if key in self.sources.called]
        unmeasured = [
            _described(path, module, "whose weights were replaced" if id(module) in self.swapped else "")
            for path, module in others.items()
        ]
        unmeasured += [f"{name} (read outside of its module)" for name in outside]
        names = {id(m): path or type(m).__name__ for path, m in called.items()} | self.own
        return ActivationRecord(
            layers=self.layers,
            norms=self.norms,
            input=batch,
            output=output,
            read_last=self.sources.read_by(last),
            last=sorted(names[key] for key in last),
            unmeasured=unmeasured,
        )

    def _judge_activation(self, layer: Layer) -> None:
        """Takes a module back that cannot be the activation, or is not that of every call."""
        if layer.activation is None:
            return
        calls = {u.shape: (u, h) for u, h in zip(layer.before, layer.after, strict=True)}
        if not all(_is_by_row(layer.activation, u, h, layer.channels_first) for u, h in calls.values()):
            layer.activation, layer.before, layer.after, layer.is_ambiguous = None, [], [], True
        elif len(layer.after) != len(layer.outputs):
            layer.is_ambiguous = True

    def _enter(self, *_: Any) -> None:
        self.sources.depth += 1

    def _hook(self, path: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Tensor | None:
            given = tensors((args, kwargs))
            first = args[:1] or tuple(kwargs.values())
            x = given[0] if len(first) == 1 and given and given[0] is first[0] else None
            if id(module) in self.with_matrix:
                self.sources.module(id(module), x, given, output)
            for origin in [self._origin(y) for y in given if y is not x]:
                self._end(module, origin)
            handed = None if x is None else self._see(path, module, x, output)
            self.sources.depth -= 1
            return handed

        return hook

    def _see(self, path: str, module: nn.Module, x: Tensor, y: Any) -> Tensor | None:
        """Files a call; gives back what the network goes on with in place of `y`, if something else."""
        origin = self._origin(x)
        if self._is_measured(module):
            if origin is not None:
                origin.layer.feeds = True
            layer = self._filed(self.layers, path, module, x, y)
            return self._hand_on(y.clone(), _Origin(layer, y, y))
        if isinstance(module, NORMS):
            self._filed(self.norms, path, module, x, y)
            return y.clone() if origin is None else self._hand_on(y.clone(), origin._replace(value=y))
        learns = list(module.parameters()) and not isinstance(module, nn.PReLU)
        if not isinstance(y, Tensor) or learns or isinstance(module, _MIXING):
            self._end(module, origin)
            return None
        if y is x:  # such as a dropout of its own
            return None
        if isinstance(module, _PASSING):
            if id(x) in self.activated:
                self._remember(self.activated, y, self.activated[id(x)])
            if origin is not None:
                self._hand_on(y, origin if isinstance(module, _RESHAPING) else origin._replace(value=y))
            return None
        if id(x) in self.activated:
            self.behind.append((module, self.activated[id(x)], x, y))
        return None if origin is None else self._activate(module, origin, x, y)

    def _origin(self, x: Tensor) -> _Origin | None:
        """Where a tensor comes from; unknown if something was done to it in place."""
        origin = self.origins.get(id(x))
        return None if origin is None or x._version != origin.version else origin

    def _is_measured(self, module: nn.Module) -> bool:
        """Whether a module multiplies by one matrix, its own: not what `functional_call` puts in its place."""
        if not is_matrix_layer(module) or module.weight.numel() == 0:  # type: ignore[operator]
            return False
        if all(id(p) in self.own for p in module.parameters()):
            return True
        self.swapped.add(id(module))
        return False

    def _end(self, module: nn.Module, origin: _Origin | None) -> None:
        """Files that a module that is no activation has read a layer's output."""
        if origin is not None and id(module) in self.with_matrix:
            origin.layer.feeds = True
        elif origin is not None:
            origin.layer.is_ambiguous = True

    def _activate(self, module: nn.Module, origin: _Origin, x: Tensor, y: Tensor) -> Tensor | None:
        layer, z, u = origin.layer, origin.output, origin.value
        is_reshaped = u.shape != x.shape  # on the way: back, where units keep their places
        feature = 1 if layer.channels_first else -1
        fits = u.ndim == z.ndim and u.shape[feature] == z.shape[feature]
        fits &= isinstance(module, ELEMENTWISE) or not is_reshaped
        if not fits or layer.activation not in (None, module):
            self._end(module, origin)
            return None
        layer.activation = module
        if not any(u is known for known in layer.before):  # it may read the same twice
            layer.before.append(u)
            layer.after.append(y.reshape(u.shape) if is_reshaped else y)
        return self._remember(self.activated, y.clone(), layer)

    def _hand_on(self, tensor: Tensor, origin: _Origin) -> Tensor:
        return self._remember(self.origins, tensor, origin._replace(version=tensor._version))

    def _remember(self, known: dict[int, Any], tensor: Tensor, what: Any) -> Tensor:
        self.alive.append(tensor)
        known[id(tensor)] = what
        return tensor

    def _filed(self, known: list[Layer], path: str, module: nn.Module, x: Tensor, y: Tensor) -> Layer:
        layer = next((layer for layer in known if layer.module is module), None)
        if layer is None:
            kind = "conv" if isinstance(module, CONVOLUTIONS) else "linear"
            layer = Layer(f"{kind}{len(known) + 1}", path, module)
            known.append(layer)
        self.read.append((path, x, x._version))
        layer.inputs.append(x)
        layer.outputs.append(y)
        return layer


def _parts(network: nn.Module) -> dict[str, nn.Module]:
    """The modules that are looked at from outside, by path; what they are made of is theirs."""
    parts: dict[str, nn.Module] = {}
    inside: set[int] = set()
    for path, module in network.named_modules():
        if id(module) not in inside and _is_part(module):
            parts[path] = module
            inside |= {id(child) for child in module.modules()}
    return parts


def _is_part(module: nn.Module) -> bool:
    if isinstance(module, (nn.Linear, *CONVOLUTIONS, *NORMS, nn.MultiheadAttention)):
        return True
    if isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        return False
    is_function = not list(module.parameters())  # such as x * sigmoid(x), with a child
    return is_function or is_parametrized(module) or not list(module.children())


def _is_by_row(module: nn.Module, x: Tensor, y: Tensor, channels_first: bool) -> bool:
    """Says whether a module makes y of x sample by sample and position by position, by trying it on a few rows."""
    if type(module) in ELEMENTWISE and getattr(module, "num_parameters", 1) == 1:
        return True  # by what it is; nn.PReLU with more slopes finds them by dimension
    if y.ndim < 2 or len(x) != len(y) or not y.is_floating_point():
        return False
    x, y = (rows(part[:ROWS_TRIED].detach(), channels_first) for part in (x, y))
    if len(x) != len(y):
        return False
    apart = slice(None, None, len(x) // ROWS_TRIED + 1)
    x, y = x[apart].clone(), y[apart]
    try:
        with torch.no_grad():
            found = module(x[:, :, None, None] if channels_first else x).flatten(1)
    except Exception:  # it takes other tensors, too, or another shape
        return False
    tolerance = math.sqrt(torch.finfo(y.dtype).eps)
    scale = float(y.nan_to_num(0.0, 0.0, 0.0).abs().amax())
    return found.shape == y.shape and torch.allclose(found, y, tolerance, tolerance * scale, equal_nan=True)


def _described(path: str, module: nn.Module, why: str) -> str:
    groups = getattr(module, "groups", 1)
    kind = type(module).__name__ + (f" with groups={groups}" if groups != 1 else "")
    kind += "" if all(p.numel() for p in module.parameters()) else " of width 0"
    kind += f" {why}" if why else ""
    return f"{path} ({kind})" if path else f"the module itself ({kind})"
