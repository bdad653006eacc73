"""Which layer makes which units, and which columns of which next layers read them.

Shapes: O outputs, I inputs of a layer, U units of a hidden layer, c copies of each unit that its activation
gives out (2 for CReLU, else 1), p positions of a unit that the next layer reads (pixels after a flatten, taps of
a kernel, else 1), S samples times copies times positions.

    columns of unit u in a reader's weight (O, I, ...):   weight.view(O, c, U, p)[:, :, u, :]

The one view serves a linear layer after a linear one, a convolution after a convolution, and a linear layer
after a flatten, which lays pixels innermost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from isorl.plasticity.networks.activations import GroupSort, MaxMin
from isorl.plasticity.networks.isometric import Shift

Weighted = nn.Linear | nn.Conv2d
Norm = nn.LayerNorm | nn.GroupNorm
WEIGHTED = (nn.Linear, nn.Conv2d)
NORMS = (nn.LayerNorm, nn.GroupNorm)
_PASSING = (nn.Flatten, nn.Identity, Shift, nn.modules.dropout._DropoutNd)


@dataclass(eq=False)
class HiddenLayer:
    """Holds a hidden layer: the module that makes its units, its norm and activation, the modules that read it.

    A body under two heads has one such layer with two readers.
    """

    name: str
    maker: Weighted
    norm: Norm | None = None
    activation: nn.Module | None = None
    readers: list[Weighted] = field(default_factory=list)

    @property
    def units(self) -> int:
        """Returns how many units there are: U."""
        return self.maker.weight.shape[0]

    @property
    def copies(self) -> int:
        """Returns how many outputs each unit has: c."""
        return getattr(self.activation, "copies", 1)

    def columns(self, tensor: Tensor) -> Tensor:
        """Returns a reader's weight (O, I, ...), or a moment of it, as a view (O, c, U, p)."""
        return tensor.view(tensor.shape[0], self.copies, self.units, -1)

    def by_unit(self, h: Tensor) -> Tensor:
        """Returns outputs of the activation, (B, c U) or (B, c U, H, W), as (S, U)."""
        return h.reshape(len(h), self.copies, self.units, -1).movedim(2, -1).reshape(-1, self.units)


def leaves(network: nn.Sequential, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yields (path, module) along a network in the order of its forward pass."""
    for name, module in network.named_children():
        here = f"{path}.{name}" if path else name
        if isinstance(module, nn.Sequential):
            yield from leaves(module, here)
        else:
            yield here, module


class NoChainError(ValueError):
    """Says what of a network is no chain of layers; `Methods` puts the method's name before it."""


def check_chain(network: nn.Sequential) -> None:
    """Refuses a network with layers that methods which go layer by layer would not find, or not know how to edit.

    Raises:
        NoChainError: names the layer or block.
    """
    for path, module in leaves(network):
        why = None
        if any(isinstance(inner, WEIGHTED) for inner in module.modules() if inner is not module):
            why = "is a block of several"
        elif isinstance(module, WEIGHTED) and getattr(module, "groups", 1) != 1:
            why = "is grouped"
        elif isinstance(module, nn.modules.batchnorm._NormBase):
            why = "normalises over the batch"
        elif not isinstance(module, (*WEIGHTED, *NORMS, nn.PReLU)) and any(True for _ in module.parameters()):
            why = "has weights of another kind"
        if why:
            raise NoChainError(
                f"acts on hidden layers one by one, but {type(module).__name__} ({path}) {why}. "
                "Use network=relu, or leave the method out."
            )


CHAIN = "the chain of hidden layers"
"""What methods that look at hidden layers rely on, and plasticity injection changes."""


def body(network: nn.Sequential) -> nn.Sequential:
    """Returns what comes before the head, with the network's own modules: (B, ...) -> features (B, F)."""
    modules = [module for _, module in leaves(network)]
    return nn.Sequential(*modules[: modules.index(head(network))])


def head(network: nn.Sequential) -> nn.Linear:
    """Returns the last layer with a weight."""
    last = [module for _, module in leaves(network) if isinstance(module, WEIGHTED)][-1]
    assert isinstance(last, nn.Linear)
    return last


def hidden_layers(networks: Mapping[str, nn.Sequential]) -> list[HiddenLayer]:
    """Returns the hidden layers of all networks in order, shared ones once; see `check_chain`."""
    layers: dict[int, HiddenLayer] = {}
    for network_name, network in networks.items():
        check_chain(network)
        below: HiddenLayer | None = None
        for path, module in leaves(network):
            if isinstance(module, WEIGHTED):
                if below is not None and not any(reader is module for reader in below.readers):
                    below.readers.append(module)
                below = layers.setdefault(id(module), HiddenLayer(f"{network_name}.{path}", module))
            elif below is not None and isinstance(module, NORMS):
                below.norm = module
            elif below is not None and below.activation is None and not isinstance(module, _PASSING):
                below.activation = module
    return [layer for layer in layers.values() if layer.readers]


def check_separable(layers: list[HiddenLayer], method: str) -> None:
    """Refuses layers whose units cannot be replaced one by one.

    Raises:
        ValueError: names the layer and says why.
    """
    for layer in layers:
        if isinstance(layer.activation, GroupSort | MaxMin):
            raise ValueError(
                f"Method '{method}' replaces single units, but {type(layer.activation).__name__} of layer "
                f"{layer.name} sorts them in groups, so none has an output of its own. Use network=relu or tanh."
            )
        if getattr(layer.maker, "isometry", "soft") != "soft":
            raise ValueError(
                f"Method '{method}' replaces rows of a weight, but layer {layer.name} ties all its rows together "
                f"(isometry='{layer.maker.isometry}'). Use isometry=none or soft."
            )


@torch.no_grad()
def unit_outputs(
    networks: Mapping[str, nn.Sequential], layers: list[HiddenLayer], inputs: Tensor
) -> list[Tensor]:
    """Returns outputs (S, U) of each hidden layer for `inputs` (B, ...), by one pass; shared layers run once."""
    outputs = layer_outputs(networks, layers, inputs)
    return [layer.by_unit(h) for layer, h in zip(layers, outputs, strict=True)]


def layer_outputs(
    networks: Mapping[str, nn.Sequential], layers: list[HiddenLayer], inputs: Tensor
) -> list[Tensor]:
    """Returns what each hidden layer's activation gives for `inputs`, (B, c U) or (B, c U, H, W), by one pass."""
    owner = {id(layer.activation or layer.norm or layer.maker): layer for layer in layers}
    found: dict[int, Tensor] = {}
    seen: dict[int, Tensor] = {}
    for network in networks.values():
        x = inputs
        for _, module in leaves(network):
            if id(module) not in seen:
                seen[id(module)] = module(x)
            x = seen[id(module)]
            if id(module) in owner:
                found[id(owner[id(module)])] = x
    return [found[id(layer)] for layer in layers]
