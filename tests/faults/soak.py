"""Long runs that learn and switch tasks every second: memory and open files stay as they are."""

import ctypes
import gc
import os
import statistics
import time
from collections import Counter
from pathlib import Path

import torch
from stable_baselines3.common.callbacks import BaseCallback

from isorl.experiments.run.experiment import build
from tests.faults.runs import configured

FAMILIES = {
    "atari": ["sequence=atari_switch-smoke", "agent=dqn", "agent.n_envs=4", "agent.buffer_size=1_000",
              "agent.learning_starts=100", "agent.train_freq=16", "agent.batch_size=8", "++sequence.cycles=20_000",
              "sequence.tasks=[{env:ALE/Breakout-v5,frames:8_000},{env:ALE/Pong-v5,frames:8_000}]"],
    "mujoco": ["sequence=mujoco_cycle-smoke", "agent.n_envs=4", "agent.n_steps=256", "agent.n_epochs=2",
               "network.widths=[32,32]", "++sequence.cycles=20_000"],
}  # fmt: skip
WARM_UP = 0.25
"""Share of the time after which memory is compared with: libraries fill their pools."""
GROWTH = 0.01


def soak(folder: Path, seconds: float) -> Counter:
    """Lets an agent learn in every family for `seconds`.

    Raises:
        AssertionError: memory grew by more than GROWTH after the warm-up, or descriptors were left open.
    """
    torch.set_num_threads(1)
    return sum((_soak(name, folder, seconds) for name in FAMILIES), Counter())


class Watch(BaseCallback):
    """Looks at memory and descriptors at the beginning of every cycle, and stops after `seconds`."""

    def __init__(self, env, seconds: float) -> None:
        super().__init__()
        self.env, self.seconds, self.begun = env, seconds, time.monotonic()
        self.cycle, self.looks = -1, []  # (seconds, bytes, descriptors)

    def _on_step(self) -> bool:
        cycle, passed = self.env.visit.number // len(self.env.sequence.tasks), time.monotonic() - self.begun
        if cycle > self.cycle:
            self.cycle = cycle
            self.looks.append((passed, _memory(), len(os.listdir("/proc/self/fd"))))
        return passed < self.seconds


def _soak(name: str, folder: Path, seconds: float) -> Counter:
    parts = build(configured(FAMILIES[name], folder / name))
    watch = Watch(parts.switching, seconds)
    try:
        parts.agent.learn(parts.sequence.agent_steps, watch)
    finally:
        parts.env.close()
    steps, switches = parts.agent.num_timesteps, parts.switching.visit.number
    warm = [look for look in watch.looks if look[0] > WARM_UP * seconds]
    quarter = len(warm) // 4
    assert quarter, f"{name}: {len(warm)} cycles after the warm-up are too few to compare"
    before, after = (
        statistics.median(look[1] for look in part) for part in (warm[:quarter], warm[-quarter:])
    )
    growth, descriptors = after / before - 1, [look[2] for look in warm]
    print(f"{name}: {steps:,} steps, {switches} switches, memory {before / 2**20:.1f} -> {after / 2**20:.1f} MiB "
          f"({growth:+.2%}), descriptors {descriptors[0]} -> {descriptors[-1]}", flush=True)  # fmt: skip
    assert growth < GROWTH, f"{name}: memory grew by {growth:.2%}"
    assert descriptors[-1] <= descriptors[0], f"{name}: descriptors were left open: {descriptors}"
    return Counter({f"{name} steps": steps, f"{name} switches": switches})


def _memory() -> int:
    """Resident bytes, without what glibc keeps in its free lists: that goes up and down by several percent."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
