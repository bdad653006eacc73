"""How far layers are from isometries: their Jacobians under the activation, and their weights.

Shapes: J_l(x) = diag(d(x)) W_l (O, I) at S samples x, spread evenly over the batch and, in images, over the
pixels; n = min(O, I) singular values sigma each.

What is pooled over a network leaves its head out, a last layer without activation, which no method holds
isometric; the head's own values stand under its name.

Norm layers between weight and activation are left out of J_l. A convolution is taken patch by patch: sigma
are those of its matrix (O, C k k) with the rows scaled by the slopes at a pixel. That is its Jacobian where
patches do not overlap, and the convention of the paper's penalty where they do. Grouped and transposed
convolutions and layers whose activation is not known have no J_l.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from isorl.plasticity.diagnostics import spectra
from isorl.plasticity.diagnostics.metric import Values, metric
from isorl.plasticity.diagnostics.probe import JACOBIAN_SAMPLES as S
from isorl.plasticity.diagnostics.probe import Probe

_PAPER = "arXiv 2606.09762"


@metric(
    "layer_jacobian_max",
    formula=f"max over {S} samples and i of sigma_i(J_l(x)); pooled: max over hidden layers",
    range="[0, inf)",
    healthy="near 1",
    cost="an eigendecomposition per sample and layer",
    paper=_PAPER,
)
def layer_jacobian_max(probe: Probe) -> Values:
    """Measures how much a layer can stretch a signal."""
    return _pooled(probe, {name: sigma.max() for name, sigma in probe.layer_jacobians.items()}, torch.max)


@metric(
    "layer_jacobian_min",
    formula=f"min over {S} samples and i of sigma_i(J_l(x)); pooled: min over hidden layers",
    range="[0, inf)",
    healthy="near 1; 0 where ReLU leaves fewer than n units active",
    cost="shared with layer_jacobian_max",
    paper=_PAPER,
)
def layer_jacobian_min(probe: Probe) -> Values:
    """Tells whether a layer loses directions."""
    return _pooled(probe, {name: sigma.min() for name, sigma in probe.layer_jacobians.items()}, torch.min)


@metric(
    "layer_jacobian_mean",
    formula=f"mean over {S} samples and i of sigma_i(J_l(x)); pooled: mean over hidden layers",
    range="[0, inf)",
    healthy="near 1",
    cost="shared with layer_jacobian_max",
    paper=_PAPER,
)
def layer_jacobian_mean(probe: Probe) -> Values:
    """Measures the average stretch."""
    return _pooled(probe, {name: sigma.mean() for name, sigma in probe.layer_jacobians.items()}, torch.mean)


@metric(
    "layer_jacobian_error",
    formula=f"mean over {S} samples and i of (sigma_i(J_l(x)) - 1)^2; pooled: mean over hidden layers",
    range="[0, inf)",
    healthy="low",
    cost="shared with layer_jacobian_max",
    paper=_PAPER + ", the batch form of the penalty",
)
def layer_jacobian_error(probe: Probe) -> Values:
    """Computes the value of the Jacobian penalty."""
    errors = {name: (sigma - 1).square().mean() for name, sigma in probe.layer_jacobians.items()}
    return _pooled(probe, errors, torch.mean)


@metric(
    "layer_jacobian_spectrum",
    formula=f"all sigma_i(J_l(x)) of {S} samples; pooled: of the hidden layers",
    range="[0, inf)",
    healthy="one narrow peak near 1",
    cost="shared with layer_jacobian_max",
    paper=_PAPER,
)
def layer_jacobian_spectrum(probe: Probe) -> Values:
    """Returns the whole distribution, for a histogram."""
    return _pooled(probe, {name: sigma.flatten() for name, sigma in probe.layer_jacobians.items()}, None)


@metric(
    "gram_deviation",
    formula="||W W^T - I||_F^2 / n = mean of (sigma_i(W)^2 - 1)^2; pooled: mean over hidden layers",
    range="[0, inf)",
    healthy="low (a ReLU layer held at s = 2 sits at 1)",
    cost="an eigendecomposition per layer",
    paper=_PAPER + ", eq. 16 per singular value",
)
def gram_deviation(probe: Probe) -> Values:
    """Computes the isometry penalty per singular value."""
    return _pooled(
        probe, {name: (s.square() - 1).square().mean() for name, s in _weights(probe).items()}, torch.mean
    )


@metric(
    "gram_anisotropy",
    formula="std / mean of sigma_i(W)^2; pooled: mean over hidden layers",
    range="[0, sqrt(n - 1)]",
    healthy="low",
    cost="shared with gram_deviation",
    paper="the scale-free part of gram_deviation",
)
def gram_anisotropy(probe: Probe) -> Values:
    """Measures the deviation from a multiple of an isometry, whatever the multiple."""
    return _pooled(probe, {name: spread(s.square()) for name, s in _weights(probe).items()}, torch.mean)


@metric(
    "input_jacobian_max",
    formula="max over samples of sigma_max(d f / d x)",
    range="[0, inf)",
    healthy="at most 1 for a 1-Lipschitz network",
    cost="C backward passes",
    paper="Saxe et al. 2014, arXiv 1312.6120",
)
def input_jacobian_max(probe: Probe) -> Values:
    """Measures an empirical lower bound of the Lipschitz constant."""
    return {"": probe.input_singular_values.max()}


@metric(
    "input_jacobian_condition",
    formula="median over samples of sigma_max / sigma_min of d f / d x, a lower bound once beyond 1 / (n 1.2e-7)",
    range="[1, 1e7)",
    healthy="low",
    cost="shared with input_jacobian_max",
    paper="Saxe et al. 2014, arXiv 1312.6120",
    at_cap=spectra.is_at_cap,
)
def input_jacobian_condition(probe: Probe) -> Values:
    """Tells whether some output directions hardly feel the input."""
    return {"": spectra.condition(probe.input_singular_values).median()}


def spread(values: Tensor) -> Tensor:
    """Returns the population standard deviation over the mean."""
    return values.std(correction=0) / values.mean()


def _pooled(probe: Probe, values: dict[str, Tensor], pool: Callable[[Tensor], Tensor] | None) -> Values:
    """The layers' values, and under "" their pool over the hidden ones; `None` joins them."""
    hidden = [values[layer.name] for layer in probe.record.hidden() if layer.name in values]
    if not hidden:
        return values
    return {"": torch.cat(hidden) if pool is None else pool(torch.stack(hidden)), **values}


def _weights(probe: Probe) -> dict[str, Tensor]:
    return {layer.name: probe.weight_singular_values(layer) for layer in probe.record.layers}


@metric(
    "weight_stable_rank",
    formula="||W||_F^2 / ||W||_2^2; pooled: mean over hidden layers",
    range="[1, n]",
    healthy="high",
    cost="shared with gram_deviation",
    paper="Rudelson & Vershynin 2007",
)
def weight_stable_rank(probe: Probe) -> Values:
    """Counts the directions that a weight uses, by energy."""
    return _pooled(probe, {name: spectra.stable_rank(s) for name, s in _weights(probe).items()}, torch.mean)


@metric(
    "weight_effective_rank",
    formula="exp H(sigma(W) / sum sigma(W)); pooled: mean over hidden layers",
    range="[1, n]",
    healthy="high",
    cost="shared with gram_deviation",
    paper="Roy & Vetterli 2007",
)
def weight_effective_rank(probe: Probe) -> Values:
    """Counts the directions that a weight uses, by entropy."""
    return _pooled(
        probe, {name: spectra.effective_rank(s) for name, s in _weights(probe).items()}, torch.mean
    )
