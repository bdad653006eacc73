"""Metrics of several networks on one batch, as a flat dictionary for a logger."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from isorl.plasticity.diagnostics.metric import METRICS, Metric
from isorl.plasticity.diagnostics.probe import Probe

DEFAULT_METRICS = (
    "dormant_units",
    "dormant_units_redo",
    "layer_jacobian_min",
    "layer_jacobian_max",
    "layer_jacobian_mean",
    "layer_jacobian_spectrum",
    "gram_deviation",
    "gram_anisotropy",
    "ntk_condition",
    "ntk_effective_rank",
    "ntk_index",
    "ntk_spectrum",
    "feature_srank",
    "feature_effective_rank",
    "feature_norm",
    "weight_norm",
    "weight_distance",
    "gradient_norm",
)


def diagnose(
    networks: Mapping[str, nn.Module],
    batch: Tensor,
    metrics: Sequence[str] = DEFAULT_METRICS,
    reference: Mapping[str, Tensor] | None = None,
    say_what_is_left_out: bool = True,
    previous: Mapping[str, Tensor] | None = None,
) -> dict[str, float | Tensor]:
    """Measures networks; returns plasticity/<metric>/<network>[/<layer>] -> a float or a 1-D CPU spectrum.

    Networks are left exactly as they were, and so are the random streams. What cannot be measured is NaN,
    with one warning; what does not apply (a gradient norm without gradients) is absent. Layers that are not
    understood have no figures, and a warning names them.

    Args:
        networks: by name, each from `batch` to one tensor. Layers they share are decomposed once.
        batch: (B, ...), best a saved one per task, so that a change is the network's and not the data's.
        metrics: names in METRICS; any that is not known is an error that suggests the nearest.
        reference: all parameters by "network/parameter", from `snapshot`, for distances.
        say_what_is_left_out: whether to warn of layers without figures.
        previous: parameters and buffers at the last measurement, from `snapshot`, for churn.
    """
    chosen = [METRICS[name] for name in metrics]
    cache: dict[int, Tensor] = {}
    values: dict[str, Tensor] = {}
    failures: list[str] = []
    for name, network in networks.items():
        with Probe(network, batch, _of(reference, name), cache, _of(previous, name)).undisturbed() as probe:
            for metric in chosen:
                prefix = f"plasticity/{metric.key}/{name}"
                for layer, value in _measure(metric, probe, prefix, failures).items():
                    values[f"{prefix}/{layer}" if layer else prefix] = value
            for note in probe.record.notes() if say_what_is_left_out else ():
                warnings.warn(f"plasticity of {name}: {note}", UserWarning, stacklevel=2)
    return _on_host(values, failures)


def _measure(metric: Metric, probe: Probe, prefix: str, failures: list[str]) -> dict[str, Tensor]:
    try:
        _ = probe.record  # first of all: it refuses what is no network from a batch to one tensor
        return {layer: _as_tensor(value) for layer, value in metric.compute(probe).items()}
    except (RuntimeError, ArithmeticError) as error:  # linear algebra, memory: one metric, not the run
        failures.append(f"{prefix} ({str(error).splitlines()[0]})")
        return {"": torch.tensor(torch.nan)}


def _as_tensor(value: Tensor | float) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    try:
        return torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError):
        raise ArithmeticError(f"{value!r} is no number") from None


def _on_host(values: dict[str, Tensor], failures: list[str]) -> dict[str, float | Tensor]:
    """Scalars as floats with a single transfer per device, spectra as CPU tensors; warns once of NaNs."""
    scalars = {key: value.double() for key, value in values.items() if value.ndim == 0}
    by_device: dict[torch.device, list[str]] = {}
    for key, value in scalars.items():
        by_device.setdefault(value.device, []).append(key)
    numbers: dict[str, float] = {}
    for keys in by_device.values():
        numbers.update(zip(keys, torch.stack([scalars[key] for key in keys]).tolist(), strict=True))
    failed = failures or [key for key, number in numbers.items() if number != number]
    if failed:
        more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        warnings.warn(f"could not measure {failed[0]}{more}; logged as NaN", RuntimeWarning, stacklevel=3)
    return {key: numbers[key] if key in numbers else value.cpu() for key, value in values.items()}


def _of(reference: Mapping[str, Tensor] | None, network: str) -> dict[str, Tensor] | None:
    if reference is None:
        return None
    prefix = f"{network}/"
    return {name.removeprefix(prefix): value for name, value in reference.items() if name.startswith(prefix)}
