"""One look at one network on one batch, shared by all metrics: each part is computed at most once.

Shapes: B batch, N samples of the kernel, C outputs, S samples per layer Jacobian, n = min(O, I).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from isorl.plasticity.diagnostics import ntk, spectra
from isorl.plasticity.diagnostics.tape import Layer, Tape, record, rows, undisturbed
from isorl.plasticity.networks.activations import ELEMENTWISE

# Samples of the kernel, N = min(64, 256 / C): its C backward passes cost about one minibatch whatever C is.
# Condition numbers compare only between networks of equal C.
KERNEL_SAMPLES, KERNEL_ROWS = 64, 256
JACOBIAN_SAMPLES = 4


class Probe:
    """A network, a batch and what metrics read off them.

    It leaves no trace: parameters, gradients, buffers, training mode and random streams stay as they were.

    Args:
        network: maps `batch` to one tensor, (B, ...) to (B, C).
        batch: (B, ...) on any device; it is moved to the network's device and number type.
        reference: earlier parameter values by name, for distances; see `snapshot`.
        cache: weight spectra by weight, to share between networks that share layers.
    """

    def __init__(
        self,
        network: nn.Module,
        batch: Tensor,
        reference: Mapping[str, Tensor] | None = None,
        cache: MutableMapping[int, Tensor] | None = None,
    ):
        self.network = getattr(network, "_orig_mod", network)  # what torch.compile wraps; it hides submodules
        self.reference = reference
        self.batch = _prepared(self.network, batch)
        self._cache = {} if cache is None else cache
        self._is_set_up = False

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[Probe]:
        """Sets the network up once for all that is read inside; each part alone would do so for itself."""
        with undisturbed(self.network, self.batch.device):
            self._is_set_up = True
            try:
                yield self
            finally:
                self._is_set_up = False

    def _undisturbed(self, grad: bool = False) -> AbstractContextManager[None]:
        return (
            torch.set_grad_enabled(grad)
            if self._is_set_up
            else undisturbed(self.network, self.batch.device, grad)
        )

    @cached_property
    def tape(self) -> Tape:
        """The recorded forward pass over the whole batch; with a graph where the kernel may read all of it."""
        return self._recorded(self.batch, grad=len(self.batch) <= KERNEL_SAMPLES)

    def _recorded(self, x: Tensor, grad: bool) -> Tape:
        with self._undisturbed(grad):
            return record(self.network, x.clone().requires_grad_() if grad else x)

    @cached_property
    def _differentiable(self) -> tuple[Tape, dict[int, Tensor]]:
        """The tape of the first N samples and the backward signals of all its outputs."""
        outputs = self.tape.output[0].numel()
        samples = min(KERNEL_SAMPLES, max(1, KERNEL_ROWS // outputs))
        tape = self.tape if len(self.batch) <= samples else self._recorded(self.batch[:samples], grad=True)
        with self._undisturbed(grad=True):
            return tape, ntk.backward_signals(tape)

    @cached_property
    def ntk_eigenvalues(self) -> Tensor:
        """Eigenvalues of the empirical NTK, ascending, (N C,)."""
        tape, signals = self._differentiable
        with self._undisturbed():
            return spectra.eigenvalues(ntk.kernel(tape, signals))

    @cached_property
    def input_singular_values(self) -> Tensor:
        """Singular values of the input-output Jacobian of each of the first N samples, (N, min(C, I))."""
        tape, _ = self._differentiable
        with self._undisturbed(grad=True):
            f = tape.output.flatten(1)
            J = [
                torch.autograd.grad(f[:, c].sum(), tape.input, retain_graph=True)[0]
                for c in range(f.shape[1])
            ]
            return spectra.singular_values(torch.stack(J, 1).flatten(2))

    @cached_property
    def feature_singular_values(self) -> Tensor:
        """Singular values of the features (B, F) that the last layer reads."""
        with self._undisturbed():
            return spectra.singular_values(self.tape.features())

    @cached_property
    def layer_jacobians(self) -> dict[str, Tensor]:
        """Singular values (S, n) of diag(d) W per layer; see `slopes`. Convolutions count patch by patch.

        S is one where the Jacobian is the same everywhere: of a head, and under an isometric activation.
        """
        with self._undisturbed():
            return {layer.name: self._layer_jacobian(layer) for layer in self.tape.layers}

    def _layer_jacobian(self, layer: Layer) -> Tensor:
        if layer.activation is None or getattr(layer.activation, "isometric", False):
            return self.weight_singular_values(layer)[None]
        u = torch.cat([rows(call, layer.channels_first) for call in layer.before])
        chosen = torch.linspace(0, len(u) - 1, min(JACOBIAN_SAMPLES, len(u))).long()
        d = layer_slopes(layer, u[chosen])
        return spectra.masked_singular_values(layer.weight(), d)

    def weight_singular_values(self, layer: Layer) -> Tensor:
        """Singular values of the layer's weight as (O, I), ascending."""
        key = id(layer.module)
        if key not in self._cache:
            with self._undisturbed():
                self._cache[key] = spectra.singular_values(layer.weight())
        return self._cache[key]


def slopes(activation: nn.Module, u: Tensor, create_graph: bool = False) -> Tensor:
    """The factors d (S, O) by which an activation scales the rows of W at pre-activations `u` (S, O, ...).

    d^2 = J^T J 1 for the activation's Jacobian J, where each output depends on one input: |phi'(u)| for
    elementwise functions, 1 where the activation is isometric.
    """
    if getattr(activation, "isometric", False):
        return torch.ones_like(u).flatten(1)
    with torch.enable_grad():
        u = u if create_graph else u.detach().requires_grad_()
        h = activation(u)
        if isinstance(activation, ELEMENTWISE):
            (derivative,) = torch.autograd.grad(h.sum(), u, create_graph=create_graph)
            return derivative.abs().flatten(1)
        v = torch.zeros_like(h, requires_grad=True)
        (Jv,) = torch.autograd.grad(h, u, v, create_graph=True)  # J^T v, linear in v: its gradient by v is J
        (J1,) = torch.autograd.grad(Jv, v, torch.ones_like(Jv), create_graph=create_graph)
        (JJ1,) = torch.autograd.grad(h, u, J1, create_graph=create_graph)
    return JJ1.clamp(min=0).sqrt().flatten(1)


def layer_slopes(layer: Layer, u: Tensor, create_graph: bool = False) -> Tensor:
    """`slopes` of a layer's activation at `u` (S, O)."""
    assert layer.activation is not None
    # image activations look for features in dimension -3
    return slopes(layer.activation, u[:, :, None, None] if layer.channels_first else u, create_graph)


def snapshot(networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Copies of all parameters as "network/parameter", to hand to `diagnose` later as its reference."""
    return {
        f"{name}/{parameter}": value.detach().clone()
        for name, network in networks.items()
        for parameter, value in network.named_parameters()
    }


def _prepared(network: nn.Module, batch: Any) -> Tensor:
    if not isinstance(batch, Tensor) or batch.ndim < 2 or len(batch) == 0:
        shape = tuple(batch.shape) if isinstance(batch, Tensor) else type(batch).__name__
        raise ValueError(f"diagnostics need a batch tensor (B, ...) with at least one sample, got {shape}")
    model = next(network.parameters(), batch)
    if model.is_floating_point():
        batch = batch.to(model.device, model.dtype)
    batch = batch.detach()
    if not torch.isfinite(batch).all():
        raise ValueError("the probe batch holds values that are not finite; every diagnostic would be NaN")
    return batch
