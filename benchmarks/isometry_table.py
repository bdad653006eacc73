"""Isometry against expressiveness, on a function that is known to be 1-Lipschitz.

    python -m benchmarks.isometry_table [--write]

A ReLU MLP, an orthogonal linear MLP and an almost-everywhere isometric (AEI) MLP are fitted to the distance to the
nearest of eight points in the plane, a 1-Lipschitz function with gradient norm one almost everywhere. Printed are
the singular values of all layer Jacobians after training, the steepest slope found, and the error on fresh points.
--write puts the table into docs/plasticity.md.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from torch import Tensor, nn

from isorl.plasticity import AdamO, NetworkSpec, build_mlp, parameter_groups, project_
from isorl.plasticity.diagnostics import Probe
from isorl.plasticity.networks import IsometricLinear

DOCS = Path(__file__).parents[1] / "docs" / "plasticity.md"
WIDTHS, UPDATES, BATCH, SEEDS = (64, 64, 64), 2000, 256, 3
NETWORKS = {
    "ReLU MLP": NetworkSpec(WIDTHS, "relu", gain=2**0.5),
    "orthogonal linear MLP": NetworkSpec(WIDTHS, "identity", isometry="projected"),
    "AEI, projected (MaxMin)": NetworkSpec(WIDTHS, "maxmin", isometry="projected"),
    "AEI, hard (MaxMin)": NetworkSpec(WIDTHS, "maxmin", isometry="hard"),
    "AEI, soft (MaxMin, AdamO)": NetworkSpec(WIDTHS, "maxmin", isometry="soft"),
}
Result = tuple[float, float, float, float]


def main() -> None:
    """Fits every network and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the table into docs/plasticity.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "| network | layer Jacobians: min | max | steepest slope found | RMSE, target std 1 |",
        "|---|---|---|---|---|",
    ]
    for name, spec in NETWORKS.items():
        results = [fitted(spec, seed) for seed in range(SEEDS)]
        cells = [f"{statistics.mean(column):.3f}" for column in zip(*results, strict=True)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    if arguments.write:
        text = DOCS.read_text()
        start, end = "<!-- isometry table -->", "<!-- end isometry table -->"
        head, tail = text.split(start)[0], text.split(end)[1]
        DOCS.write_text(head + "\n".join([start, *lines, end]) + tail)


def fitted(spec: NetworkSpec, seed: int) -> Result:
    """Smallest and largest layer singular value, steepest slope and error after training one network."""
    torch.manual_seed(seed)
    points = 4 * torch.rand(8, 2) - 2
    network = build(spec)
    kind = AdamO if spec.isometry == "soft" else torch.optim.Adam
    options = {"iso_lambda": 1.0} if spec.isometry == "soft" else {}
    optimizer = kind(parameter_groups(network, heads=["1"]), lr=3e-3, **options)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, UPDATES, eta_min=1e-5)
    scale = target(sample(4096), points).std()
    for _ in range(UPDATES):
        x = sample(BATCH)
        loss = (network(x) - target(x, points)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        project_(network)
    x = sample(4096)
    with torch.no_grad():
        error = (network(x) - target(x, points)).square().mean().sqrt() / scale
    probe = Probe(network, x[:256])
    sigma = torch.cat([s.flatten() for name, s in probe.layer_jacobians.items() if name != "linear4"])
    return sigma.min().item(), sigma.max().item(), slope(network, x).item(), error.item()


def build(spec: NetworkSpec) -> nn.Module:
    """A body with a head that is orthogonal, too, where the body is: the whole function is then 1-Lipschitz."""
    body = build_mlp(2, spec)
    head: nn.Module = nn.Linear(WIDTHS[-1], 1)
    if spec.isometry in ("projected", "hard"):
        head = IsometricLinear(WIDTHS[-1], 1, spec.isometry)
        project_(head)
    return nn.Sequential(body, head)


def sample(count: int) -> Tensor:
    """Points of the square [-2, 2]^2, (count, 2)."""
    return 4 * torch.rand(count, 2) - 2


def target(x: Tensor, points: Tensor) -> Tensor:
    """Distance to the nearest of the points, (B, 1)."""
    return torch.cdist(x, points).amin(1, keepdim=True)


def slope(network: nn.Module, x: Tensor) -> Tensor:
    """The largest gradient norm over the samples: a lower bound of the Lipschitz constant."""
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(x).sum(), x)
    return gradient.norm(dim=1).max()


if __name__ == "__main__":
    main()
