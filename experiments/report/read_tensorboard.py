"""Reads TensorBoard logs of other stable-baselines3 runs: one visit, its return, and diagnostics under our keys."""

from __future__ import annotations

import numpy as np

from isorl.experiments.grid.cell import State
from isorl.experiments.report.runs import MAIN_NETWORKS, NAN, Run
from isorl.experiments.run.summary import CURVE_POINTS

RETURNS = ("rollout/ep_rew_mean", "eval/mean_reward")


def read_tensorboard(run: Run) -> Run:
    """Fills in what the event files in the folder of `run` hold; its notes say what is missing."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.folder), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    run.notes.append(
        "a TensorBoard log: no switches, no references, so no plasticity ratio, forgetting or transfer"
    )
    key = next((key for key in RETURNS if key in tags), None)
    if key is None:
        run.notes.append(f"it has none of {', '.join(RETURNS)}: no learning curve")
        return run
    points = events.Scalars(key)
    steps, values = np.array([p.step for p in points]), np.array([p.value for p in points])
    run.agent_steps, run.seconds = int(steps[-1]), points[-1].wall_time - points[0].wall_time
    run.runs_in_process = 1
    run.tasks, run.task = ("the only task",), np.zeros(1, dtype=int)
    run.start, run.length = np.zeros(1), np.array([float(steps[-1])])
    run.online, run.end = np.array([values.mean()]), np.array([values[-max(len(values) // 5, 1) :].mean()])
    run.score = np.full(1, NAN)
    run.curve = _binned(steps, values)[None]
    if not np.isfinite(values).all():
        run.state = State.FAILED
        run.notes.append(f"{key} is not finite from agent step {steps[~np.isfinite(values)][0]:,} on")
    for tag in tags:
        kind, *rest = tag.split("/")
        if kind == "plasticity" and len(rest) == 2 and rest[1] in MAIN_NETWORKS:
            run.diagnostics[rest[0]] = np.array([events.Scalars(tag)[-1].value])
    return run


def _binned(steps: np.ndarray, values: np.ndarray) -> np.ndarray:
    part = np.minimum(steps * CURVE_POINTS // max(int(steps[-1]), 1), CURVE_POINTS - 1)
    means = [values[part == p].mean() if np.any(part == p) else NAN for p in range(CURVE_POINTS)]
    return np.array(means)
