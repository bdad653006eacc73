"""Makes the random reference: a uniformly random agent plays every task; its folder looks like that of any run."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from isorl.configs import RunConfig
from isorl.envs.sequence import Sequence, Task
from isorl.envs.task_env import TaskEnv
from isorl.experiments.run.folder import RunFolder, write_json
from isorl.experiments.run.returns import VisitReturns
from isorl.experiments.run.summary import without_nan

EPISODES = 100
"""Episodes per task; fewer where MAX_STEPS ends the measurement first."""
MAX_STEPS = 50_000
"""Agent steps per task, over all environments."""
N_ENVS = 8


def start(config: RunConfig) -> dict[str, Any]:
    """Plays every task of the sequence; returns the summary: its raw returns by visit.

    It takes seconds: one that died begins again.
    """
    folder = RunFolder(config.run_dir)
    sequence = Sequence.from_config(config.sequence, config.seed, N_ENVS)
    began = time.monotonic()
    with folder.locked():
        if not folder.config.is_file():
            folder.create(config)
        played = {task.index: returns_of(task, config.seed) for task in sequence.tasks}
        rows = [VisitReturns(visit, returns=played[visit.task.index]).row() for visit in sequence.visits]
        content = {
            "sequence": sequence.name,
            "agent_steps": sequence.agent_steps,
            "seconds": round(time.monotonic() - began, 1),
            "diagnostics_share_of_time": 0.0,
            "returns": rows,
            "diagnostics": [],
        }
        write_json(folder.summary, without_nan(content))
    return content


def returns_of(task: Task, seed: int) -> list[float]:
    """Returns the raw returns of whole episodes under actions drawn uniformly from the task's own."""
    env = TaskEnv(task, N_ENVS)
    space = env.action_space
    space.seed(seed)
    returns: list[float] = []
    env.reset(seed=seed + 20_000)
    try:
        for _ in range(MAX_STEPS // N_ENVS):
            step = env.step(np.stack([space.sample() for _ in range(N_ENVS)]))
            returns += [episode.raw_return for episode in step.episodes]
            if len(returns) >= EPISODES:
                break
    finally:
        env.close()
    return returns
