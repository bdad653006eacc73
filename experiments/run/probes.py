"""Collects the fixed probe batch of each task, on which plasticity is measured.

Measuring on whatever the agent sees now would mix a change of its data with a change of its network. So the
observations are collected once, by a random agent on environments of their own, and saved with the run.
"""

from __future__ import annotations

import io
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np

from isorl.envs.failures import Failures
from isorl.envs.sequence import Sequence, Task
from isorl.envs.spaces import CommonSpaces
from isorl.envs.task_env import TaskEnv
from isorl.experiments.run.atomic_write import write_atomically
from isorl.experiments.run.folder import LOG

SPACING = 8
"""Vector steps between looks: neighbours in time are nearly equal."""
N_ENVS = 4
MAX_LOOKS = 20
"""Looks per observation asked for, after which a task that shows few different ones is taken as it is."""


def collect_probe(
    task: Task, common: CommonSpaces, size: int, seed: int, failures: Failures | None = None
) -> np.ndarray:
    """Collects up to `size` different observations of a uniformly random agent, (size, ...) in the common space.

    Two equal observations would make the neural tangent kernel singular, whatever the network.
    """
    env = TaskEnv(task, N_ENVS, common, failures=failures)
    rng = np.random.default_rng([seed, task.index])
    space = deepcopy(env.action_space)  # the learner draws its own actions from the original
    space.seed(int(rng.integers(2**31)))
    different: dict[bytes, np.ndarray] = {}
    observations = env.reset(seed=int(rng.integers(2**31)))
    try:
        for _ in range(MAX_LOOKS * size // N_ENVS):
            different |= {row.tobytes(): row for row in observations.copy()}
            if len(different) >= size:
                break
            for _ in range(SPACING):
                observations = env.step(np.stack([space.sample() for _ in range(N_ENVS)])).observations
    finally:
        env.close()
    return np.stack(list(different.values())[:size])


def load_or_collect(
    path: Path,
    sequence: Sequence,
    common: CommonSpaces,
    size: int,
    seed: int,
    failures: Failures | None = None,
) -> list[np.ndarray]:
    """Returns one probe batch per task, from `path` if it is there."""
    if path.exists():
        try:
            with np.load(path, allow_pickle=False) as saved:
                return [saved[str(task.index)] for task in sequence.tasks]
        except Exception as error:  # whatever a damaged file provokes; they can be collected again
            LOG.warning("'%s' cannot be read (%s): the probes are collected again", path, error)
    probes = [collect_probe(task, common, size, seed, failures) for task in sequence.tasks]
    by_task: dict[str, Any] = {
        str(task.index): probe for task, probe in zip(sequence.tasks, probes, strict=True)
    }
    content = io.BytesIO()
    np.savez_compressed(content, **by_task)
    write_atomically(path, content.getvalue())
    return probes
