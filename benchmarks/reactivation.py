"""When does the isometry step revive dead ReLU units, and when can it not?

    python -m benchmarks.reactivation [--write]

First a network is trained on random labels until Adam has killed a part of its units; then only the isometry
step acts, without data. Second, units are killed one cause at a time and each remedy is tried.
--write draws the figures and puts the tables into docs/reactivation.md. A minute on one core.
"""

from __future__ import annotations

import argparse
import copy
import functools
from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch
from torch import Tensor, nn

from isorl.plasticity import NetworkSpec, build_mlp, initialise_, jacobian_penalty
from isorl.plasticity.diagnostics.units import ZERO_RATE, zero_rate
from isorl.plasticity.linalg import isometry_descent

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1] / "docs"
SIZE, SAMPLES, SEEDS = 64, 512, 3
RATE, STEPS = 1e-3, 2000  # a of each isometry step; a * STEPS = 2
BIAS_DECAY = 2e-3  # of the remedy that also pulls biases to zero


def main() -> None:
    """Runs both parts, prints their tables and, if asked, writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write figures and tables into docs/")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    curves = {label: revival_curve(*options) for label, options in CURVES.items()}
    revived = {
        cause: {name: share_revived(kill, remedy) for name, remedy in REMEDIES.items()}
        for cause, kill in KILLS.items()
    }
    tables = {"trained": trained_table(curves), "causes": causes_table(revived)}
    print("\n\n".join(tables.values()))
    if arguments.write:
        draw_curves(curves)
        draw_causes(revived)
        for name, table in tables.items():
            insert(name, table)


# --- part one: a network that Adam has killed ---------------------------------------------------------------

CURVES = {  # target s, bias decay per step
    "isometry step, s = 1": (1.0, 0.0),
    "isometry step, s = 2": (2.0, 0.0),
    "isometry step, s = 2, and bias decay": (2.0, BIAS_DECAY),
    "bias decay alone": (None, BIAS_DECAY),
}
LEARNING_RATE, LABELLINGS = 3e-3, 8
MARKS = [0, 1, 3, 10, 30, 100, 300, 1000, 2000]


def revival_curve(target: float | None, bias_decay: float) -> list[list[float]]:
    """Dormant units (of 384) after each of MARKS steps, per seed."""
    curves = []
    for seed in range(SEEDS):
        network, x = copy.deepcopy(killed_by_training(seed))
        curve = []
        for step in range(MARKS[-1] + 1):
            if step in MARKS:
                curve.append(float(dormant(network, x).sum()))
            isometry_step(network, target, bias_decay)
        curves.append(curve)
    return curves


@functools.cache
def killed_by_training(seed: int) -> tuple[nn.Sequential, Tensor]:
    """A 64-128-128-128 ReLU body after random labellings, one after the other, and its inputs."""
    torch.manual_seed(seed)
    spec = NetworkSpec((128,) * 3, gain=2**0.5)
    body = build_mlp(SIZE, spec)
    initialise_(body, spec)
    head = nn.Linear(128, 10)
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], lr=LEARNING_RATE)
    x = inputs()
    for _ in range(LABELLINGS):
        labels = torch.randint(0, 10, (SAMPLES,))
        for _ in range(320):
            batch = torch.randint(0, SAMPLES, (64,))
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(body(x[batch])), labels[batch]).backward()
            optimizer.step()
    return body, x


# --- part two: one cause at a time, in a layer of 64 units of which 16 are killed -----------------------------

DEAD = slice(0, 16)


def small_and_aligned(layer: nn.Linear, x: Tensor) -> None:
    """Rows shrunk to a hundredth and turned against the mean input."""
    layer.weight[DEAD] = 0.01 * (layer.weight[DEAD] - 2 * direction(x))


def aligned(layer: nn.Linear, x: Tensor) -> None:
    """Rows of full length that all point against the mean input, and so at one another."""
    rows = 0.3 * layer.weight[DEAD] - direction(x)
    layer.weight[DEAD] = rows / rows.norm(dim=1, keepdim=True)


def moderate_bias(layer: nn.Linear, x: Tensor) -> None:
    """An orthogonal layer, whose gradient is zero, with biases just low enough to silence the units."""
    layer.bias[DEAD] = -1.01 * (x @ layer.weight[DEAD].T).amax(0)


def large_bias(layer: nn.Linear, x: Tensor) -> None:
    """Biases below -sqrt(2) max ||x||: no row of length sqrt(2) can reach above zero."""
    layer.weight[DEAD] *= 0.1
    layer.bias[DEAD] = -1.5 * 2**0.5 * x.norm(dim=1).max()


def zero_rows(layer: nn.Linear, x: Tensor) -> None:
    """Rows that are exactly zero with a bias below: W W^T W is zero there, too."""
    layer.weight[DEAD] = 0.0
    layer.bias[DEAD] = -0.1


KILLS: dict[str, Callable[[nn.Linear, Tensor], None]] = {
    "small rows against the mean input": small_and_aligned,
    "rows against the mean input": aligned,
    "bias, in an orthogonal layer": moderate_bias,
    "bias below -√2 max ‖x‖": large_bias,
    "exactly zero rows": zero_rows,
}


def gram(target: float, bias_decay: float = 0.0) -> Callable[[nn.Sequential, Tensor], None]:
    """A remedy: the isometry step, with bias decay if asked."""

    def remedy(network: nn.Sequential, x: Tensor) -> None:
        for _ in range(STEPS):
            isometry_step(network, target, bias_decay)

    return remedy


def jacobian(network: nn.Sequential, x: Tensor) -> None:
    """A remedy that cannot work: gradient descent on the Jacobian penalty, which the dead mask hides."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with torch.enable_grad():
        for _ in range(60):
            optimizer.zero_grad()
            jacobian_penalty(network, x[:32]).backward()
            optimizer.step()


REMEDIES: dict[str, Callable[[nn.Sequential, Tensor], None]] = {
    "isometry, s = 1": gram(1.0),
    "isometry, s = 2": gram(2.0),
    "s = 2, bias decay": gram(2.0, BIAS_DECAY),
    "Jacobian penalty": jacobian,
}


@torch.no_grad()
def share_revived(
    kill: Callable[[nn.Linear, Tensor], None], remedy: Callable[[nn.Sequential, Tensor], None]
) -> float:
    """Share of the killed units that respond again, over seeds."""
    shares = []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        x = inputs()
        network = build_mlp(SIZE, NetworkSpec((SIZE,), isometry="soft", gain=1.0))
        kill(network[0], x)
        before = dormant(network, x)[DEAD]
        assert before.all(), "the units to revive must be dead"
        remedy(network, x)
        shares.append((~dormant(network, x)[DEAD]).float().mean().item())
    return sum(shares) / SEEDS


# --- shared -----------------------------------------------------------------------------------------------


def inputs() -> Tensor:
    """Non-negative inputs with a mean, as pixels or features after ReLU have: (SAMPLES, SIZE)."""
    return torch.randn(SAMPLES, SIZE).relu()


def direction(x: Tensor) -> Tensor:
    """The mean input, at length one."""
    return x.mean(0) / x.mean(0).norm()


@torch.no_grad()
def isometry_step(network: nn.Sequential, target: float | None, bias_decay: float) -> None:
    """One step on every layer, without data."""
    for layer in network:
        if isinstance(layer, nn.Linear):
            if target is not None:
                layer.weight += isometry_descent(layer.weight, RATE, target)
            layer.bias *= 1 - bias_decay


@torch.no_grad()
def dormant(network: nn.Sequential, x: Tensor) -> Tensor:
    """Whether each unit of every layer is zero on more than 95 % of the inputs."""
    flags = []
    for layer in network:
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            flags.append(zero_rate(x) > ZERO_RATE)
    return torch.cat(flags)


def trained_table(curves: dict[str, list[list[float]]]) -> str:
    """Dormant units by step, mean over seeds."""
    chosen = [0, 10, 100, 1000, 2000]
    lines = ["| dormant of 384 after | " + " | ".join(f"a·steps = {RATE * mark:g}" for mark in chosen) + " |"]
    lines.append("|---" * (len(chosen) + 1) + "|")
    for label, seeds in curves.items():
        means = torch.tensor(seeds).mean(0).tolist()
        lines.append(
            f"| {label} | " + " | ".join(f"{means[MARKS.index(mark)]:.0f}" for mark in chosen) + " |"
        )
    return "\n".join(lines)


def causes_table(revived: dict[str, dict[str, float]]) -> str:
    """Share revived by cause and remedy."""
    lines = ["| killed by | " + " | ".join(REMEDIES) + " |", "|---" * (len(REMEDIES) + 1) + "|"]
    for cause, row in revived.items():
        lines.append(f"| {cause} | " + " | ".join(f"{100 * share:.0f} %" for share in row.values()) + " |")
    return "\n".join(lines)


def draw_curves(curves: dict[str, list[list[float]]]) -> None:
    """Dormant units against the accumulated strength."""
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    xs = [RATE * max(mark, 0.5) for mark in MARKS]
    for label, seeds in curves.items():
        values = torch.tensor(seeds)
        axes.plot(xs, values.mean(0), marker="o", markersize=3, label=label)
        axes.fill_between(xs, values.amin(0), values.amax(0), alpha=0.15)
    axes.set(xscale="log", xlabel="a · steps", ylabel="dormant units of 384", ylim=(0, None))
    axes.legend(frameon=False, fontsize=8)
    save(figure, "reactivation-trained.png")


def draw_causes(revived: dict[str, dict[str, float]]) -> None:
    """A map of what revives what."""
    figure, axes = plt.subplots(figsize=(6.5, 3.2), layout="constrained")
    shares = torch.tensor([list(row.values()) for row in revived.values()])
    axes.imshow(shares, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(REMEDIES)), REMEDIES, fontsize=8)
    axes.set_yticks(range(len(revived)), revived, fontsize=8)
    for (i, j), share in zip(
        [(i, j) for i in range(len(shares)) for j in range(shares.shape[1])], shares.flatten(), strict=True
    ):
        axes.text(j, i, f"{100 * share:.0f} %", ha="center", va="center", color="w" if share < 0.6 else "k")
    save(figure, "reactivation-causes.png")


def save(figure: plt.Figure, name: str) -> None:
    """Writes a figure into docs/img."""
    (ROOT / "img").mkdir(exist_ok=True)
    figure.savefig(ROOT / "img" / name, dpi=130, metadata={"Software": None})
    plt.close(figure)


def insert(name: str, table: str) -> None:
    """Puts a table between its markers in docs/reactivation.md."""
    path = ROOT / "reactivation.md"
    head, rest = path.read_text().split(f"<!-- {name} -->")
    tail = rest.split(f"<!-- end {name} -->")[1]
    path.write_text(f"{head}<!-- {name} -->\n{table}\n<!-- end {name} -->{tail}")


if __name__ == "__main__":
    main()
