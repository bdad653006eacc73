"""A recording of one forward pass: what went into and came out of every layer, and into its activation.

Shapes: B batch, I inputs, O outputs of a layer, T positions (pixels, sequence steps, repeated calls).

Layers are found by running the network, not by its structure: an activation belongs to the layer whose output
reached it, through norms, dropout or reshaping. What the recording cannot attribute is listed by name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isorl.plasticity.linalg import at_least_single
from isorl.plasticity.networks.isometric import PatchConv2d, Shift, effective_weight

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._BatchNorm)
# Modules that hand on a layer's output without being its activation.
_PASSING = (
    *NORMS,
    nn.Identity,
    nn.Flatten,
    nn.Unflatten,
    nn.Softmax,
    nn.LogSoftmax,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.Upsample,
    nn.AdaptiveAvgPool2d,
    nn.AvgPool2d,
    nn.MaxPool2d,
    nn.modules.dropout._DropoutNd,
    Shift,
)


@dataclass(eq=False)
class Layer:
    """A linear or convolution layer, or a norm, with what the forward pass showed it (one entry per call)."""

    name: str  # short and stable: conv1, linear4
    path: str  # where the module is in the network
    module: nn.Module
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    activation: nn.Module | None = None
    before: list[Tensor] = field(default_factory=list)  # into the activation
    after: list[Tensor] = field(default_factory=list)  # out of it: the layer's units

    @property
    def channels_first(self) -> bool:
        """Whether features are dimension 1 (images) rather than the last (vectors)."""
        return isinstance(self.module, nn.Conv2d)

    def weight(self) -> Tensor:
        """The matrix (O, I) the layer multiplies by, at least in single precision, without a graph."""
        weight = effective_weight(self.module).detach()
        return at_least_single(weight.reshape(weight.shape[0], -1))

    def units(self) -> Tensor:
        """Outputs of the activation as (samples and positions, units)."""
        return torch.cat([rows(h, self.channels_first) for h in self.after])


@dataclass(eq=False)
class Tape:
    """The layers and norms of a network in the order of the pass, its ends, and what was not understood."""

    layers: list[Layer]
    norms: list[Layer]
    input: Tensor
    output: Tensor
    uncovered: list[str]  # parameters outside the recorded layers and norms

    def hidden(self) -> list[Layer]:
        """The layers without the head: a last layer that no activation follows. A head is free by design."""
        has_head = len(self.layers) > 1 and self.layers[-1].activation is None
        return self.layers[:-1] if has_head else self.layers

    def features(self) -> Tensor:
        """What the last layer reads: (B, I)."""
        if not self.layers:
            raise ValueError("the network has no linear or convolution layer, so it has no features")
        return self.layers[-1].inputs[-1].flatten(1)


def rows(x: Tensor, channels_first: bool) -> Tensor:
    """(B, O, H, W) or (B, ..., O) as (B T, O)."""
    return (x.movedim(1, -1) if channels_first else x).reshape(-1, x.shape[1 if channels_first else -1])


def record(network: nn.Module, batch: Tensor) -> Tape:
    """Runs `network` on `batch` and records it. See `undisturbed`."""
    recorder = _Recorder(network)
    with recorder.listening():
        output = network(batch)
    if not isinstance(output, Tensor):
        raise ValueError(f"diagnostics need a network that returns one tensor, got {type(output).__name__}")
    return Tape(recorder.layers, recorder.norms, batch, output, recorder.uncovered())


@contextlib.contextmanager
def undisturbed(network: nn.Module, device: torch.device, grad: bool = False) -> Iterator[None]:
    """Evaluation mode, no autocast and no in-place activations inside; graphs only if `grad`.

    Outside everything is as it was, the global random streams too: a measurement never shifts a training run.
    """
    modules = list(network.modules())
    training = [module for module in modules if module.training]
    in_place = [module for module in modules if getattr(module, "inplace", False) is True]
    devices = [device] if device.type == "cuda" else []
    try:
        if training:
            network.eval()
        for module in in_place:
            module.inplace = False  # type: ignore[assignment]
        with (
            torch.random.fork_rng(devices),
            torch.inference_mode(False),
            torch.autocast(device.type, enabled=False),
            torch.set_grad_enabled(grad),
        ):
            yield
    finally:
        for module in training:
            module.training = True
        for module in in_place:
            module.inplace = True  # type: ignore[assignment]


def patches(module: nn.Module, x: Tensor) -> Tensor:
    """A layer's input as (B, T, I): the vectors its weight matrix multiplies, one per output position."""
    if not isinstance(module, nn.Conv2d):
        return x.reshape(x.shape[0], -1, x.shape[-1])
    if isinstance(module, PatchConv2d):
        x = module.pad(x)
    return F.unfold(x, module.kernel_size, module.dilation, _padding(module), module.stride).transpose(1, 2)


def is_plain(module: nn.Module) -> bool:
    """Whether a layer is one matrix over patches: no groups, no exotic padding."""
    if not isinstance(module, nn.Conv2d):
        return True
    return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)


def _padding(module: nn.Conv2d) -> tuple[int, ...]:
    assert not isinstance(module.padding, str)  # see is_plain
    return module.padding


class _Recorder:
    """Forward hooks on the leaves of a network; `owners` follows each layer's output by tensor identity."""

    def __init__(self, network: nn.Module):
        self.network = network
        self.layers: list[Layer] = []
        self.norms: list[Layer] = []
        self.owners: dict[int, Layer] = {}
        self.alive: list[Any] = []  # ids stay unique only while the tensors live

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        leaves = [(path, m) for path, m in self.network.named_modules() if not list(m.children())]
        handles = [module.register_forward_hook(self._hook(path)) for path, module in leaves]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def uncovered(self) -> list[str]:
        seen = [layer.module for layer in self.layers if is_plain(layer.module)]
        seen += [norm.module for norm in self.norms]
        known = {id(parameter) for module in seen for parameter in module.parameters()}
        return [name for name, p in self.network.named_parameters() if id(p) not in known]

    def _hook(self, path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
                self._see(path, module, args[0], output)

        return hook

    def _see(self, path: str, module: nn.Module, x: Tensor, y: Tensor) -> None:
        self.alive += [x, y]
        if isinstance(module, nn.Linear | nn.Conv2d):
            self.owners[id(y)] = self._called(self.layers, path, module, x, y)
            return
        if isinstance(module, NORMS):
            self._called(self.norms, path, module, x, y)
        owner = self.owners.get(id(x))
        if owner is None:
            return
        if isinstance(module, _PASSING):
            self.owners[id(y)] = owner
        elif owner.activation in (None, module) and not (list(module.parameters()) and not _is_prelu(module)):
            owner.activation = module
            owner.before.append(x)
            owner.after.append(y)

    def _called(self, known: list[Layer], path: str, module: nn.Module, x: Tensor, y: Tensor) -> Layer:
        layer = next((layer for layer in known if layer.module is module), None)
        if layer is None:
            kind = "conv" if isinstance(module, nn.Conv2d) else "linear"
            layer = Layer(f"{kind}{len(known) + 1}", path, module)
            known.append(layer)
        layer.inputs.append(x)
        layer.outputs.append(y)
        return layer


def _is_prelu(module: nn.Module) -> bool:
    return isinstance(module, nn.PReLU)
