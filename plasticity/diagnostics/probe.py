"""One look at one network on one batch, shared by all metrics: each part is computed at most once.

Shapes: B batch, N samples of the kernel, C outputs, S samples per layer Jacobian, n = min(O, I).
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from isorl.plasticity.diagnostics import ntk, spectra
from isorl.plasticity.diagnostics.record import (
    ActivationRecord,
    Layer,
    NotMeasurableError,
    record,
    rows,
)
from isorl.plasticity.diagnostics.undisturbed import undisturbed
from isorl.plasticity.networks.activations import ELEMENTWISE
from isorl.plasticity.roles import uncompiled

# Samples of the kernel, N = min(64, 256 / C): its C backward passes cost about one minibatch whatever C is.
# Condition numbers compare only between networks of equal C.
KERNEL_SAMPLES, KERNEL_ROWS = 64, 256
JACOBIAN_SAMPLES = 16
GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


class Probe:
    """Holds a network, a batch and what metrics read off them.

    It leaves no trace: parameters, gradients, buffers, training mode and random streams stay as they were.

    Args:
        network: maps `batch` to one tensor, (B, ...) to (B, C).
        batch: (B, ...), or (B,) of integers, on any device. The network runs on it as given, or, where it does
            not, on the batch in its own number type.
        reference: earlier values of all parameters by name, for distances; see `snapshot`.
        cache: weight spectra by weight, to share between networks that share layers.
        previous: values of all parameters and buffers by name at the last measurement, for churn.
    """

    def __init__(
        self,
        network: nn.Module,
        batch: Tensor,
        reference: Mapping[str, Tensor] | None = None,
        cache: MutableMapping[int, Tensor] | None = None,
        previous: Mapping[str, Tensor] | None = None,
    ):
        self.network = getattr(network, "_orig_mod", network)  # what torch.compile wraps; it hides submodules
        self.reference, self.previous = reference, previous
        self.batch = _prepared(self.network, batch)
        self._cache = {} if cache is None else cache
        self._is_set_up = False
        self._known: dict[str, Tensor] = {}

    def once(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """Returns what several metrics of one module read, computed at the first of them."""
        if name not in self._known:
            self._known[name] = compute()
        return self._known[name]

    def earlier(self, values: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the earlier values of what the network holds `now`, by the same names, on its device.

        Raises:
            NotMeasurableError: there are none of something, or of another shape.
        """
        known = {uncompiled(name): value for name, value in values.items()}
        lacking = [
            name
            for name, value in now.items()
            if uncompiled(name) not in known or known[uncompiled(name)].shape != value.shape
        ]
        if lacking:
            raise NotMeasurableError(
                f"the earlier values have no {lacking[0]} of this shape, but {', '.join([*known][:3])}, ...: take "
                "them by `snapshot` of this network"
            )
        return {name: known[uncompiled(name)].to(value) for name, value in now.items()}

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
    def record(self) -> ActivationRecord:
        """Returns the record of a pass over the whole batch; with a graph where the kernel may read all of it."""
        return self._recorded(self.batch, grad=len(self.batch) <= KERNEL_SAMPLES)

    def _recorded(self, x: Tensor, grad: bool) -> ActivationRecord:
        if not grad:
            with self._undisturbed():
                return record(self.network, x)
        with self._undisturbed(grad=True), ntk.differentiable(self.network):
            return record(self.network, ntk.leaf(x))

    @cached_property
    def _of_first_samples(self) -> ActivationRecord:
        """The record of the first N samples, with a graph."""
        samples = min(KERNEL_SAMPLES, max(1, KERNEL_ROWS // self.record.output[0].numel()))
        return self.record if len(self.batch) <= samples else self._recorded(self.batch[:samples], grad=True)

    @cached_property
    def ntk_eigenvalues(self) -> Tensor:
        """Returns the eigenvalues of the empirical NTK, ascending, (N C,)."""
        recorded = self._of_first_samples
        with self._undisturbed(grad=True), ntk.differentiable(self.network):
            K = ntk.kernel(self.network, recorded, ntk.backward_signals(recorded))
        with self._undisturbed():
            return spectra.eigenvalues(K.detach())

    @cached_property
    def input_singular_values(self) -> Tensor:
        """Returns the singular values of d f / d x at each of the first N samples, (N, min(C, I))."""
        recorded = self._of_first_samples
        if not recorded.input.requires_grad:
            raise NotMeasurableError(
                "the batch holds no real numbers, so nothing can be differentiated by it"
            )
        with self._undisturbed(grad=True):
            ntk.check_samples_apart(self.network, recorded)
            f = ntk.outputs(recorded)

            def by_input(y: Tensor) -> Tensor:
                return torch.autograd.grad(y.sum(), recorded.input, retain_graph=True)[0].flatten(1)

            # (N, C, I) of sums over samples; if these are apart, the same J follows from any other sum
            J = torch.stack([by_input(f[:, c]) for c in range(f.shape[1])], 1)
            v = 1 + torch.arange(len(f), device=f.device)[:, None] / len(f)
            tolerance = 10 * math.sqrt(torch.finfo(J.dtype).eps) * J.abs().max()
            if (by_input(v * f) - v * J.sum(1)).abs().max() > tolerance:
                raise NotMeasurableError("the outputs of a sample depend on other samples of the batch")
            return spectra.singular_values(J)

    @cached_property
    def feature_singular_values(self) -> Tensor:
        """Returns the singular values of the features (B, F) that the last layer reads."""
        with self._undisturbed():
            return spectra.singular_values(self.record.features())

    @cached_property
    def layer_jacobians(self) -> dict[str, Tensor]:
        """Returns the singular values (S, n) of diag(d) W per layer, of convolutions patch by patch; see `slopes`.

        S is at most JACOBIAN_SAMPLES, spread over the samples and positions of the batch; one where the Jacobian
        is the same everywhere: of a head, and under an isometric activation. Layers of which it is not known
        what follows them are left out, and those under an activation that mixes units, with a warning.
        """
        found: dict[str, Tensor] = {}
        with self._undisturbed():
            for layer in self.record.understood():
                try:
                    found[layer.name] = self._layer_jacobian(layer)
                except NotMeasurableError as error:
                    warnings.warn(f"no Jacobian of {layer.path}: {error}", RuntimeWarning, stacklevel=2)
        return found

    def _layer_jacobian(self, layer: Layer) -> Tensor:
        if layer.activation is None or getattr(layer.activation, "isometric", False):
            return self.weight_singular_values(layer)[None]
        u = torch.cat([rows(call, layer.channels_first) for call in layer.before])
        d = layer_slopes(layer, u[evenly(len(u), len(self.batch), JACOBIAN_SAMPLES).to(u.device)])
        return spectra.masked_singular_values(layer.weight(), d)

    def weight_singular_values(self, layer: Layer) -> Tensor:
        """Returns the singular values of the layer's weight as (O, I), ascending."""
        key = id(layer.module)
        if key not in self._cache:
            with self._undisturbed():
                self._cache[key] = spectra.singular_values(layer.weight())
        return self._cache[key]


def evenly(count: int, samples: int, most: int) -> Tensor:
    """Returns the indices, ascending, of at most `most` of `count` rows (samples x positions), spread over both.

    Samples are taken at equal distances, and of each another position: those of a golden-ratio sequence, which
    leaves no part of an image out.
    """
    if count <= most:
        return torch.arange(count)
    if count % samples:
        samples = count
    k = torch.arange(most, dtype=torch.double) + 0.5
    position = (k * GOLDEN_RATIO % 1 * (count // samples)).long()
    return (k * samples / most).long() * (count // samples) + position


def slopes(activation: nn.Module, u: Tensor, create_graph: bool = False) -> Tensor:
    """Returns the factors d (S, O) by which an activation scales the rows of W at pre-activations `u` (S, O, ...).

    d^2 = J^T J 1 for the activation's Jacobian J, where each output depends on one input: |phi'(u)| for
    elementwise functions, 1 where the activation is isometric.

    Raises:
        NotMeasurableError: an output depends on several inputs, so that no such factors exist.
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

        def by_gram(w: Tensor) -> Tensor:
            """J^T J w."""
            (Jw,) = torch.autograd.grad(Jv, v, w, create_graph=create_graph, retain_graph=True)
            return torch.autograd.grad(h, u, Jw, create_graph=create_graph, retain_graph=True)[0]

        squares = by_gram(torch.ones_like(u))
        w = torch.randn(u.shape, generator=torch.Generator().manual_seed(0)).to(u)
        mixed = (by_gram(w) - w * squares).detach().abs().max()
        if mixed > 1e-2 * squares.detach().abs().max():
            raise NotMeasurableError(
                f"{type(activation).__name__} mixes units, so a layer under it has no Jacobian diag(d) W"
            )
    return squares.clamp(min=0).sqrt().flatten(1)


def layer_slopes(layer: Layer, u: Tensor, create_graph: bool = False) -> Tensor:
    """Returns the `slopes` of a layer's activation at `u` (S, O)."""
    assert layer.activation is not None
    # image activations look for features in dimension -3
    return slopes(layer.activation, u[:, :, None, None] if layer.channels_first else u, create_graph)


def snapshot(networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Copies all parameters and buffers as "network/name", to hand to `diagnose` later as `reference` or `previous`."""
    return {
        f"{name}/{uncompiled(part)}": value.detach().clone()
        for name, network in networks.items()
        for part, value in (*network.named_parameters(), *network.named_buffers())
    }


def _prepared(network: nn.Module, batch: Any) -> Tensor:
    """The batch on the network's device: as given, or in the network's number type if it runs on that alone."""
    if not isinstance(batch, Tensor) or batch.ndim < (1 if _counts(batch) else 2) or len(batch) == 0:
        raise _no_batch(batch)
    model = next((p for p in network.parameters() if p.is_floating_point()), batch)
    given = batch.detach().to(model.device)
    if given.dtype != model.dtype and not given.is_complex() and not _runs(network, given):
        if given.ndim < 2:
            raise _no_batch(batch)
        converted = given.to(model.dtype)
        given = converted if _runs(network, converted) else given
    if not torch.isfinite(given).all():
        raise ValueError("the probe batch holds values that are not finite; every diagnostic would be NaN")
    return given


def _counts(batch: Tensor) -> bool:
    return not (batch.is_floating_point() or batch.is_complex())


def _no_batch(batch: Any) -> ValueError:
    shape = tuple(batch.shape) if isinstance(batch, Tensor) else type(batch).__name__
    return ValueError(f"diagnostics need a batch tensor (B, ...) with at least one sample, got {shape}")


def _runs(network: nn.Module, batch: Tensor) -> bool:
    try:
        with undisturbed(network, batch.device):
            network(batch.clone())
    except Exception:  # of any kind: an index that is no integer, operands of two types
        return False
    return True
