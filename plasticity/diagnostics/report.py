"""A readable report on any module: `print(report(module, batch))`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from isorl.plasticity.diagnostics.diagnose import DEFAULT_METRICS, diagnose
from isorl.plasticity.diagnostics.metric import METRICS
from isorl.plasticity.diagnostics.probe import Probe


@dataclass(frozen=True)
class Report:
    """Holds the measured values, the layers behind them, and what could not be handled.

    Args:
        values: metric to layer to value; layer "" is the whole network.
        layers: short name to module path and description.
        notes: what the report leaves out, in words.
    """

    values: Mapping[str, Mapping[str, float | Tensor]]
    layers: Mapping[str, str]
    notes: Sequence[str]

    def __str__(self) -> str:
        scalars = {
            key: row for key, row in self.values.items() if all(isinstance(v, float) for v in row.values())
        }
        header = ["metric", "network", *self.layers, "healthy"]
        table = [header, *(self._row(key, row) for key, row in scalars.items())]
        widths = [max(len(cells[i]) for cells in table) for i in range(len(header))]
        lines = [
            "  ".join(cell.ljust(w) for cell, w in zip(cells, widths, strict=True)).rstrip()
            for cells in table
        ]
        lines.insert(1, "-" * max(map(len, lines)))
        lines += ["", *(f"{name}: {text}" for name, text in self.layers.items())]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)

    def _row(self, key: str, row: Mapping[str, float | Tensor]) -> list[str]:
        cells = [shown(key, float(row[layer])) if layer in row else "" for layer in ("", *self.layers)]
        return [key, *cells, METRICS[key].healthy]


def shown(metric: str, value: float) -> str:
    """Writes a value in four digits; "at least" stands before one that is all that the measurement can tell."""
    return f"at least {value:.4g}" if METRICS[metric].is_bound(value) else f"{value:.4g}"


def report(
    module: nn.Module,
    batch: Tensor,
    metrics: Sequence[str] = DEFAULT_METRICS,
    reference: Mapping[str, Tensor] | None = None,
) -> Report:
    """Measures a module, layer by layer where it is made of linear and convolution layers and activation modules.

    Args:
        module: maps `batch` to one tensor.
        batch: (B, ...).
        metrics: names in METRICS.
        reference: earlier values by parameter name, for distances.
    """
    start = None if reference is None else {f"module/{name}": value for name, value in reference.items()}
    flat = diagnose({"module": module}, batch, metrics, start, say_what_is_left_out=False)
    values: dict[str, dict[str, float | Tensor]] = {}
    for key, value in flat.items():
        _, metric, _, *layer = key.split("/")
        values.setdefault(metric, {})[layer[0] if layer else ""] = value
    recorded = Probe(module, batch).record
    layers = {layer.name: f"{layer.path or '(the module)'}, {layer.module}" for layer in recorded.layers}
    return Report(values, layers, recorded.notes())
