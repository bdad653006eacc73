"""Time per update of every method, as a ratio to plain Adam's in the same run: docs/method_costs.json.

    python -m benchmarks.methods                     # what is missing: a few minutes on one core for all
    python -m benchmarks.methods method ...          # these again

Rounds of plain and treated updates alternate on the same data, so that a busy machine slows both; the ratio of
their medians is what is reported. Sampling, loss and the optimizer are in it, the environment is not.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.env_util import make_vec_env
from torch.optim import Adam, Optimizer

from isorl.agents import ContinualClassifier, ContinualDQN, ContinualPPO
from isorl.configs import SequenceConfig, TaskConfig
from isorl.envs import Sequence, SwitchingVecEnv
from isorl.plasticity import AdamO, NetworkSpec
from isorl.plasticity.methods import METHODS, Method

ROUNDS = 7
COSTS = Path(__file__).parents[1] / "docs" / "method_costs.json"
SETTINGS = {
    "ppo-mlp": "PPO, MLP 64-64, minibatch 64",
    "dqn-mlp": "DQN, MLP 64-64, minibatch 32",
    "dqn-cnn": "DQN, Nature CNN 84x84x4, minibatch 32",
    "classifier-mlp": "classifier, MLP 64-64, minibatch 64",
}
Agent = ContinualPPO | ContinualDQN | ContinualClassifier


class Noise(gymnasium.Env):
    """Random images, for their size alone."""

    observation_space = gymnasium.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    action_space = gymnasium.spaces.Discrete(6)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """A first image."""
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Another image."""
        return self.observation_space.sample(), 0.0, False, False, {}


def agent(setting: str, methods: dict[str, Method], optimizer: type[Optimizer] = Adam) -> Agent:
    """An agent with data to train on."""
    policy = {"network": NetworkSpec(activation="relu"), "optimizer_class": optimizer}
    common: dict[str, Any] = dict(policy_kwargs=policy, methods=methods, seed=0, device="cpu")
    if setting.startswith("classifier"):
        config = SequenceConfig("digits", [TaskConfig("isorl/Digits-v0", agent_steps=1_000_000)])
        stream = SwitchingVecEnv(Sequence.from_config(config, 0, 64), 64, 0)
        return ContinualClassifier("NetworkPolicy", stream, **common).learn(128)
    env = make_vec_env(Noise if setting.endswith("cnn") else "CartPole-v1", 2, seed=0)
    if setting.startswith("ppo"):
        return ContinualPPO("NetworkPolicy", env, n_steps=128, batch_size=64, n_epochs=4, **common).learn(256)
    return ContinualDQN("NetworkPolicy", env, learning_starts=50, buffer_size=200, **common).learn(64)


def seconds(trained: Agent, setting: str) -> float:
    """Measures the seconds of a round: 16 updates on vectors, 2 on images."""
    began = time.perf_counter()
    if isinstance(trained, ContinualDQN):
        trained.train(2 if setting.endswith("cnn") else 16, 32)
    else:  # a rollout of PPO is 16 minibatches
        for _ in range(16 if isinstance(trained, ContinualClassifier) else 1):
            trained.train()
    return time.perf_counter() - began


def ratio(setting: str, name: str) -> float:
    """Time of an update with the method over one without."""
    optimizer = AdamO if name == "adaptive_isometry" else Adam  # whose strength it controls
    agents = agent(setting, {}, optimizer), agent(setting, {name: METHODS[name]()}, optimizer)
    for one in agents:
        seconds(one, setting)  # warms up
    rounds = [[seconds(one, setting) for one in agents] for _ in range(ROUNDS)]
    plain, treated = (median(column) for column in zip(*rounds, strict=True))
    return treated / plain


def main(names: list[str]) -> None:
    """Measures, prints and writes."""
    torch.set_num_threads(1)
    known = json.loads(COSTS.read_text()) if COSTS.exists() else {}
    costs = known.get("ratios", {})
    print(f"{'':24}" + "".join(f"{setting:>16}" for setting in SETTINGS))
    for name in names or METHODS:
        method, of_name = METHODS[name], costs.setdefault(name, {})
        if method.requires and find_spec(method.requires) is None:
            print(f"{name:24}  skipped: needs {method.requires}")
            continue
        for setting in SETTINGS:
            fits = setting.startswith("classifier") or not method.needs_labels
            if fits and (names or setting not in of_name):
                of_name[setting] = round(ratio(setting, name), 2)
        cells = [f"{of_name[setting]:16.2f}" if setting in of_name else " " * 16 for setting in SETTINGS]
        print(f"{name:24}" + "".join(cells), flush=True)
    content = {
        "settings": SETTINGS,
        "machine": f"{platform.machine()}, one thread, torch {torch.__version__}",
        "ratios": dict(sorted(costs.items())),
    }
    COSTS.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
