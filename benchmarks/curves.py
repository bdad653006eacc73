"""Learning curves of the exact, the fast, the compiled and the half-precision mode on the same seeds: is anything lost?

    python -m benchmarks.curves [--steps 60000] [--seeds 10]

The fast mode differs from the exact one by rounding, which training amplifies until single runs differ; what must
stay the same is how well they learn. Prints the mean return of each quarter of training, of PPO on CartPole and of
DQN on Rain. Seeds that can be computed as one are, as train.py does it.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

from agents import ContinualDQN, ContinualPPO
from agents.pack import Pack
from benchmarks.contenders import ARGUMENTS, COPIES, our_env
from benchmarks.tables import shown, table
from configs.schema import SwitchConfig
from plasticity import NetworkSpec

MODES = {
    "exact": {"exact": True},
    "fast": {"exact": False},
    "fast, compiled": {"exact": False, "compile": True},
    "fast, bf16": {"exact": False, "precision": "bfloat16"},
}
CASES: dict[type, str] = {ContinualPPO: "ppo_cartpole", ContinualDQN: "dqn_rain"}


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


def curve(pack: Pack, agent: Any, mode: dict[str, Any], steps: int, seed: int) -> list[float]:
    """Mean returns by quarter of one run among those of `pack`."""
    case = CASES[agent]
    policy = {"network": NetworkSpec(activation="tanh" if agent is ContinualPPO else "relu")}
    arguments: dict[str, Any] = {**ARGUMENTS[case], **mode}
    env = our_env(case, COPIES[case], seed)
    switch = SwitchConfig(exploration="run")  # the one visit is endless
    model = agent(
        "NetworkPolicy", env, seed=seed, device="cpu", policy_kwargs=policy, switch=switch, **arguments
    )
    returns = Returns()
    with pack.joined(model):
        model.learn(steps, callback=returns, log_interval=None)
    return returns.quarters(steps)


def main() -> None:
    """Trains all and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=60_000)
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for agent in (ContinualPPO, ContinualDQN):
        for name, mode in MODES.items():
            pack = Pack()
            seeds = range(options.seeds)
            runs = np.array(
                pack.answers([partial(curve, pack, agent, mode, options.steps, seed) for seed in seeds])
            )
            rows.append([CASES[agent], name, *(shown(quarter, ".1f") for quarter in runs.T)])
            print(*rows[-1], sep=" | ", flush=True)
    print(*table(["", "mode", *(f"quarter {i}" for i in range(1, 5))], rows), sep="\n")


if __name__ == "__main__":
    main()
