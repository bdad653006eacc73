"""Long runs that switch tasks every few seconds: memory and open files stay as they are."""

import gc
import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from configs import SequenceConfig, TaskConfig
from envs import Sequence, SwitchingVecEnv

FAMILIES = {
    "atari": [TaskConfig(f"ALE/{game}-v5", agent_steps=2_000) for game in ("Breakout", "Pong", "Boxing")],
    "mujoco": [TaskConfig(f"{body}-v5", agent_steps=8_000) for body in ("Hopper", "Walker2d", "HalfCheetah")],
}
WARM_UP = 0.25
"""Share of the time after which memory is compared with: libraries fill their pools."""
GROWTH = 0.01


def soak(seconds: float) -> Counter:
    """Plays every family for `seconds`, with a switch every few seconds.

    Raises:
        AssertionError: memory grew by more than GROWTH after the warm-up, or descriptors were left open.
    """
    torch.set_num_threads(1)
    return sum((_soak(name, seconds) for name in FAMILIES), Counter())


def _soak(name: str, seconds: float) -> Counter:
    config = SequenceConfig("soak", FAMILIES[name], cycles=100_000)
    env = SwitchingVecEnv(Sequence.from_config(config, 0, 4), 4, 0)
    env.reset()
    env.action_space.seed(0)
    steps, begun, warm = 0, time.monotonic(), None
    while (passed := time.monotonic() - begun) < seconds:
        env.step(np.stack([env.action_space.sample() for _ in range(4)]))
        steps += 4
        if warm is None and passed > WARM_UP * seconds and env.visit.task.index == 0:
            warm = _memory(), _descriptors()
    memory, descriptors = _memory(), _descriptors()
    assert warm is not None, "too short for a warm-up"
    growth, switches = memory / warm[0] - 1, env.visit.number
    print(
        f"{name}: {steps:,} steps, {switches} switches, memory {growth:+.2%}, descriptors {warm[1]} -> {descriptors}"
    )
    env.close()
    assert growth < GROWTH, f"{name}: memory grew by {growth:.2%}"
    assert descriptors <= warm[1], f"{name}: {descriptors - warm[1]} descriptors were left open"
    return Counter({f"{name} steps": steps, f"{name} switches": switches})


def _memory() -> int:
    """Resident bytes."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
