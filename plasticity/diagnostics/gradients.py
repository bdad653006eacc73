"""The gradient that the last update left in a network: its rank, and units that hardly feel it.

Absent where no parameter holds a gradient. Shapes: G (O, I) the gradient of a layer's weight, kernels reshaped.
"""

from __future__ import annotations

import torch
from torch import Tensor

from isorl.plasticity.diagnostics import spectra
from isorl.plasticity.diagnostics.metric import Values, metric
from isorl.plasticity.diagnostics.probe import Probe
from isorl.plasticity.linalg import at_least_single

SMALL = 0.01  # tau of ReGraMa


@metric(
    "gradient_spectrum",
    formula="singular values of G; pooled: of all hidden layers",
    range="[0, inf)",
    healthy="many of one size",
    cost="an eigendecomposition per layer",
    paper="-",
)
def gradient_spectrum(probe: Probe) -> Values:
    """Returns the singular values of each layer's gradient, for a histogram."""
    found = {name: spectra.singular_values(G) for name, G in _gradients(probe).items()}
    hidden = [found[layer.name] for layer in probe.record.hidden() if layer.name in found]
    return {**({"": torch.cat(hidden)} if hidden else {}), **found}


@metric(
    "gradient_effective_rank",
    formula="exp H(sigma(G) / sum sigma(G)); pooled: mean over hidden layers",
    range="[0, min(O, I)]",
    healthy="high",
    cost="shared with gradient_spectrum",
    paper="Roy & Vetterli 2007, on G",
)
def gradient_effective_rank(probe: Probe) -> Values:
    """Counts the directions in which an update without an optimizer would move a layer."""
    found = {
        name: spectra.effective_rank(spectra.singular_values(G)) for name, G in _gradients(probe).items()
    }
    hidden = [found[layer.name] for layer in probe.record.hidden() if layer.name in found]
    return {**({"": torch.stack(hidden).mean()} if hidden else {}), **found}


@metric(
    "small_gradient_units",
    formula=f"share of units with E|G_i| / mean_j E|G_j| <= {SMALL}, G_i the row of unit i; pooled over hidden units",
    range="[0, 1]",
    healthy="low",
    cost="free",
    paper="Liu et al. 2025 (GraMa), arXiv 2505.24061",
)
def small_gradient_units(probe: Probe) -> Values:
    """Counts the units that hardly learn, whether they are active or not."""
    flags = {name: (gradient_scores(G) <= SMALL).float() for name, G in _gradients(probe).items()}
    hidden = [flags[layer.name] for layer in probe.record.hidden() if layer.name in flags]
    return {
        **({"": torch.cat(hidden).mean()} if hidden else {}),
        **{name: each.mean() for name, each in flags.items()},
    }


def gradient_scores(G: Tensor) -> Tensor:
    """Returns E|G_i| / mean_j E|G_j| (O,) of the rows of G (O, I); 0 where all is 0."""
    magnitude = G.abs().mean(1)
    return magnitude / magnitude.mean().clamp(min=torch.finfo(magnitude.dtype).tiny)


def _gradients(probe: Probe) -> dict[str, Tensor]:
    """Returns G by layer, of those whose weight is a parameter with a gradient."""
    weights = {layer.name: layer.module._parameters.get("weight") for layer in probe.record.layers}
    return {
        name: at_least_single(weight.grad).flatten(1)
        for name, weight in weights.items()
        if weight is not None and weight.grad is not None
    }
