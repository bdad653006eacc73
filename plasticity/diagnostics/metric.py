"""What a metric is: a name, a formula, a range, a healthy direction, a cost, a paper, and how to compute it.

One decorated function adds a metric; the registry, the documentation and `diagnose` see it by itself:

    @metric("weight_norm", formula="||theta||_2", range="[0, inf)", healthy="stable", cost="free", paper="-")
    def weight_norm(probe): return {"": ...}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from isorl.plasticity.diagnostics.probe import Probe
from isorl.plasticity.registry import Registry

Values = Mapping[str, Tensor | float]


@dataclass(frozen=True)
class Metric:
    """Defines a number (or spectrum) of a network and, where it makes sense, of each layer.

    Args:
        key: its name, also in TensorBoard: plasticity/<key>/<network>[/<layer>].
        formula: its definition.
        range: the values it can take.
        healthy: the direction a plastic network is found in.
        cost: what it adds to the shared forward pass.
        paper: where the definition comes from.
        compute: from a probe to values by layer name; "" is the whole network. Scalars are 0-d or numbers, spectra 1-d.
        at_cap: whether a value is as large as the measurement can tell, so that the true one is at least that.
    """

    key: str
    formula: str
    range: str
    healthy: str
    cost: str
    paper: str
    compute: Callable[[Probe], Values]
    at_cap: Callable[[float], bool] | None = None

    def is_bound(self, value: float) -> bool:
        """Returns whether a value is a lower bound."""
        return self.at_cap is not None and self.at_cap(value)


METRICS: Registry[Metric] = Registry("metric")


def metric(
    key: str,
    *,
    formula: str,
    range: str,
    healthy: str,
    cost: str,
    paper: str,
    at_cap: Callable[[float], bool] | None = None,
) -> Callable[[Callable[[Probe], Values]], Metric]:
    """Registers a function from a probe to values as the metric `key`."""

    def register(compute: Callable[[Probe], Values]) -> Metric:
        return METRICS.register(key)(Metric(key, formula, range, healthy, cost, paper, compute, at_cap))

    return register


def describe() -> str:
    """Returns all metrics by name as a Markdown table; docs/metrics.md holds it."""
    rows = [
        [f"`{m.key}`", m.formula, m.range, m.healthy, m.cost, m.paper] for _, m in sorted(METRICS.items())
    ]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    head = ["| metric | formula | range | healthy | cost | source |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *lines])
