"""Network bodies: an MLP, the Nature CNN, a small CNN, and isometric counterparts. Heads are the agents' business.

Plain ReLU and tanh bodies are made of the modules of Stable-Baselines3's MlpExtractor and NatureCNN in their
order, so that they draw the same random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from isorl.plasticity.networks.hypersphere import Embedder, LerpBlock, UnitRows
from isorl.plasticity.networks.isometric import IsometricConv2d, IsometricLinear, PatchConv2d, Shift
from isorl.plasticity.networks.spec import NetworkSpec
from isorl.plasticity.networks.spectral import SpectralConv2d, SpectralLinear

SMALLEST_OF_NATURE, SMALLEST = 36, 3
"""Pixels per side below which the convolutions of the Nature CNN, and that of the small CNN, leave nothing."""


class Body(nn.Sequential):
    """Chains layers, and says how many features it gives."""

    out_features: int


def body_for(in_shape: tuple[int, ...], spec: NetworkSpec) -> str:
    """Returns the body that `spec` stands for on observations of `in_shape`: mlp, small_cnn or nature_cnn.

    "auto" takes an MLP for vectors and for images below 3 x 3, the small CNN below 36 x 36, else the Nature CNN.

    Raises:
        ValueError: a CNN is asked for, but the observations are no images.
    """
    if spec.body == "auto":
        side = min(in_shape[1:]) if len(in_shape) == 3 else 0
        return "mlp" if side < SMALLEST else "small_cnn" if side < SMALLEST_OF_NATURE else "nature_cnn"
    if spec.body != "mlp" and len(in_shape) != 3:
        raise ValueError(f"network.body={spec.body} needs images, but observations have shape {in_shape}")
    return spec.body


def describe_body(in_shape: tuple[int, ...], spec: NetworkSpec) -> str:
    """Returns the body of `body_for` in words, for logs and tables."""
    body = body_for(in_shape, spec)
    if body == "mlp":
        widths = "-".join(map(str, (math.prod(in_shape), *spec.widths)))
        name = "SimbaV2" if spec.architecture == "simba_v2" else "MLP"
        return f"{name} {widths}{' on flattened images' if len(in_shape) == 3 else ''}"
    name = "small CNN" if body == "small_cnn" else "Nature CNN"
    form = " of patches" if spec.has_patches else ""
    form += " with SimbaV2 blocks" if spec.architecture == "simba_v2" else ""
    return f"{name}{form} on {' x '.join(map(str, in_shape))}"


def build_body(in_shape: tuple[int, ...], spec: NetworkSpec) -> Body:
    """Returns the body of `body_for`: (B, *in_shape) -> (B, features) for images; an MLP takes (B, prod(in_shape))."""
    body = body_for(in_shape, spec)
    if body == "mlp":
        return build_mlp(math.prod(in_shape), spec)
    build = build_small_cnn if body == "small_cnn" else build_nature_cnn
    return build(in_shape, spec)  # type: ignore[arg-type]


def build_mlp(in_features: int, spec: NetworkSpec) -> Body:
    """Returns an MLP (B, in_features) -> (B, spec.widths[-1]); without widths, the identity."""
    if spec.architecture == "simba_v2":
        return _finish(Body(*_simba(in_features, spec.widths[0], spec)), spec.widths[0], spec)
    layers: list[nn.Module] = []
    width = in_features
    for out_features in spec.widths:
        units = out_features // spec.unit.copies
        layers += [_linear(width, units, spec), *_unit(units, spec, dim=-1)]
        width = out_features
    return _finish(Body(*layers), width, spec)


def build_nature_cnn(in_shape: tuple[int, int, int], spec: NetworkSpec, features: int = 512) -> Body:
    """Returns a CNN (B, C, H, W), already scaled to [0, 1] -> (B, features).

    Overlapping: the convolutions of Mnih et al. 2015. Patches: `_nature_patches` below.
    """
    convolutions = _nature_patches if spec.has_patches else _nature_convolutions
    if not spec.has_patches and min(in_shape[1:]) < SMALLEST_OF_NATURE:
        height, width = in_shape[1:]
        raise ValueError(
            f"the Nature CNN needs images of at least 36 x 36, got {height} x {width}; enlarge them, "
            "or choose body='small_cnn', or convolutions='patches', which take any size"
        )
    return _build_cnn(in_shape, spec, convolutions, features)


def build_small_cnn(in_shape: tuple[int, int, int], spec: NetworkSpec, features: int = 128) -> Body:
    """Returns a CNN for small images (B, C, H, W) -> (B, features), as MinAtar's authors use.

    Overlapping: one 3 x 3 convolution of 16 channels and a linear layer (Young and Tian 2019, arXiv 1903.03176).
    Patches: 3 x 3 with 64 channels in place of the convolution, whose overlap no isometry has; on 10 x 10 pixels both
    give 1,024 features, and up to 7 channels the patches lose nothing of their input.
    """
    if min(in_shape[1:]) < SMALLEST:
        height, width = in_shape[1:]
        raise ValueError(
            f"the small CNN needs images of at least 3 x 3, got {height} x {width}; choose body='mlp'"
        )
    return _build_cnn(in_shape, spec, _small_convolutions, features)


def _build_cnn(
    in_shape: tuple[int, int, int],
    spec: NetworkSpec,
    convolutions: Callable[[int, NetworkSpec], list[nn.Module]],
    features: int,
) -> Body:
    """Chains the convolutions and one linear layer, whose input they determine."""
    spec.check_width(features)
    layers = [*convolutions(in_shape[0], spec), nn.Flatten()]
    with torch.no_grad():
        flat = nn.Sequential(*layers)(torch.zeros(1, *in_shape)).shape[1]
    if spec.architecture == "simba_v2":
        return _finish(Body(*layers, *_simba(flat, features, spec)), features, spec)
    units = features // spec.unit.copies
    layers += [_linear(flat, units, spec), *_unit(units, spec, dim=-1)]
    return _finish(Body(*layers), features, spec)


@torch.no_grad()
def initialise_(body: nn.Module, spec: NetworkSpec) -> None:
    """Draws every weight anew, orthogonal with the spec's gain, and sets biases to zero, in SB3's order.

    Does nothing where the spec has no gain (a plain body with gain=None): the caller has decided already.
    """
    if spec.orthogonal_gain is None:
        return
    for layer in body.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.orthogonal_(layer.weight, spec.orthogonal_gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        if isinstance(layer, UnitRows):
            layer.project_()


def _nature_convolutions(channels: int, spec: NetworkSpec) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for out_channels, size, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
        units = out_channels // spec.unit.copies
        layers += [_convolution(channels, units, size, stride, spec), *_unit(units, spec, dim=-3)]
        channels = out_channels
    return layers


def _nature_patches(channels: int, spec: NetworkSpec) -> list[nn.Module]:
    """Patches of 4, then 3, then a 1 x 1 mix, with shifts between: 84 -> 21 -> 7 -> 7 pixels, 64 channels.

    The same 3136 features as the Nature CNN from 60 % of its multiplications.
    """
    layers: list[nn.Module] = []
    for size, step in ((4, 0), (3, 1), (1, 1)):
        layers += [Shift(step)] if step else []
        units = 64 // spec.unit.copies
        layers += [
            PatchConv2d(channels, units, size, spec.isometry, _gain(spec)),
            *_unit(units, spec, dim=-3),
        ]
        channels = 64
    return layers


def _small_convolutions(channels: int, spec: NetworkSpec) -> list[nn.Module]:
    copies = spec.unit.copies
    if spec.has_patches:
        layer: nn.Module = PatchConv2d(channels, units := 64 // copies, 3, spec.isometry, _gain(spec))
    else:
        layer = _convolution(channels, units := 16 // copies, 3, 1, spec)
    return [layer, *_unit(units, spec, dim=-3)]


def _simba(in_features: int, width: int, spec: NetworkSpec) -> list[nn.Module]:
    blocks = len(spec.widths) - 1
    return [Embedder(in_features, width), *(LerpBlock(width, blocks) for _ in range(blocks))]


def _linear(in_features: int, out_features: int, spec: NetworkSpec) -> nn.Linear:
    if spec.isometry in ("projected", "hard"):
        return IsometricLinear(in_features, out_features, spec.isometry, _gain(spec))
    return (
        SpectralLinear(in_features, out_features)
        if spec.spectral_norm
        else nn.Linear(in_features, out_features)
    )


def _convolution(channels: int, units: int, size: int, stride: int, spec: NetworkSpec) -> nn.Conv2d:
    if spec.isometry in ("projected", "hard"):
        return IsometricConv2d(channels, units, size, stride, spec.isometry, _gain(spec))
    return (SpectralConv2d if spec.spectral_norm else nn.Conv2d)(channels, units, size, stride)


def _unit(features: int, spec: NetworkSpec, dim: int) -> list[nn.Module]:
    """What follows a weight: LayerNorm if asked for (over channels and pixels for images), the activation."""
    norm: list[nn.Module] = []
    if spec.layer_norm:
        norm = [nn.LayerNorm(features) if dim == -1 else nn.GroupNorm(1, features)]
    return [*norm, spec.unit.build(dim)]


def _gain(spec: NetworkSpec) -> float:
    gain = spec.orthogonal_gain
    return 1.0 if gain is None else gain


def _finish(body: Body, out_features: int, spec: NetworkSpec) -> Body:
    body.out_features = out_features
    # A plain body keeps torch's initialisation: drawing again would shift the random stream of its caller.
    if spec.isometry != "none" or spec.architecture != "plain":
        initialise_(body, spec)
    return body
