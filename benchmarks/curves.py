"""Learning curves of the exact, the fast and the half-precision mode on the same seeds: is anything lost?

    python -m benchmarks.curves [CASE ...] [--modes MODE ...] [--steps 60000] [--seeds 10]

The fast mode differs from the exact one by rounding, which training amplifies until single runs differ; what must
stay the same is how well they learn. Prints the mean return of each quarter of training. Cases and modes are those
of benchmarks/speed.py. Seeds that can be computed as one are, as train.py does it.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.contenders import ours
from isorl.agents.batched import BatchedRuns
from isorl.experiments.report.document import Cell, Table
from isorl.experiments.report.estimates import estimate_cell, rng
from isorl.experiments.report.statistics import bootstrap, mean

MODES = ("exact", "fast", "fast, bf16")


class Returns(BaseCallback):
    """Collects (agent step, return) of every episode."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, float]] = []

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self.found.append((self.num_timesteps, info["episode"]["r"]))
        return True

    def quarters(self, steps: int) -> list[float]:
        """Mean return of the episodes that ended in each quarter."""
        when, returns = np.array(self.found).T
        return [float(returns[when * 4 // (steps + 1) == quarter].mean()) for quarter in range(4)]


def curve(case: str, mode: str, steps: int, seed: int) -> list[float]:
    """Mean returns by quarter of one run."""
    agent, returns = ours(case, mode, "cpu", seed), Returns()
    agent.learn(steps, callback=returns, log_interval=None)
    return returns.quarters(steps)


def main() -> None:
    """Trains all and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", default=("ppo_cartpole", "dqn_rain"))
    parser.add_argument("--modes", nargs="*", metavar="MODE", default=MODES)
    parser.add_argument("--steps", type=int, default=60_000)
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for case in options.cases:
        for mode in options.modes:
            runs = np.array(
                BatchedRuns().results(
                    [partial(curve, case, mode, options.steps, seed) for seed in range(options.seeds)]
                )
            )
            means = [estimate_cell(bootstrap(mean, quarter[:, None], rng=rng())) for quarter in runs.T]
            rows.append([Cell(case), Cell(mode), *means])
            print(*(cell.in_markdown() for cell in rows[-1]), sep=" | ", flush=True)
    print(Table(("", "mode", *(f"quarter {i}" for i in range(1, 5))), rows, left=2).to_markdown())


if __name__ == "__main__":
    main()
