"""Folders of runs that never ran, for reports: scores of which one knows what must come out."""

import json
from pathlib import Path

import numpy as np

from isorl.experiments.grid.cell import Cell
from isorl.experiments.grid.grid import Grid

LEVEL = {"random": 0.0, "fresh": 1.0}
LOST = {"keeps": 0.0, "loses": 0.1}
"""Of the fresh agent's gain, at every further visit."""


def summary(rng: np.random.Generator, level: np.ndarray, tasks: int, diagnostics: int) -> dict:
    """A summary.json: one row per visit at `level` (V,), dormant units that rise as the level falls."""
    rows = [
        {"visit": v, "task": f"task-{v % tasks}", "task_index": v % tasks, "start": v * 1000, "agent_steps": 1000,
         "episodes": 50, "mean": mean, "end": mean + 0.1, "mean_score": None, "end_score": None,
         "curve": list(mean + 0.1 * np.linspace(-1, 1, 10))}
        for v, mean in enumerate(level + 0.01 * rng.normal(size=len(level)))
    ]  # fmt: skip
    keys = [f"plasticity/metric_{n}/actor/layer" for n in range(diagnostics)]
    measured = [
        {"plasticity/dormant_units/actor": float(1 - rows[v]["mean"]), **dict.fromkeys(keys, 0.123456789)}
        for v in range(len(level))
    ]
    return {
        "sequence": "synthetic", "agent_steps": len(level) * 1000, "seconds": 10.0, "diagnostics_share_of_time": 0.1,
        "returns": rows, "evaluation": {"tasks": [f"task-{t}" for t in range(tasks)],
        "after_visit": rng.normal(size=(len(level), tasks)).tolist()}, "diagnostics": measured,
    }  # fmt: skip


def write_grid(
    root: Path, arms: dict[str, float], sequences: int, seeds: int, visits: int = 10, diagnostics: int = 0
) -> Path:
    """A finished grid with its references; `arms` lose so much of a fresh agent's gain per visit."""
    rng, cells = np.random.default_rng(0), []
    for seed in range(seeds):
        for sequence in (f"sequence {n}" for n in range(sequences)):
            ids = {kind: f"{kind}-{sequence}-{seed}" for kind in LEVEL}
            levels = {arm: 1 - lost * np.arange(visits) for arm, lost in arms.items()}
            levels |= {kind: np.full(visits, level) for kind, level in LEVEL.items()}
            for arm, level in levels.items():
                kind = arm if arm in LEVEL else "arm"
                id = ids.get(arm, f"{arm}-{sequence}-{seed}")
                folder = root / "cells" / sequence / id
                folder.mkdir(parents=True)
                content = summary(
                    rng, level, tasks=visits, diagnostics=diagnostics if kind != "random" else 0
                )
                (folder / "summary.json").write_text(json.dumps(content, indent=2))
                cells.append(Cell(id, folder, ("seed=0",), sequence, arm, seed, visits * 1000, kind, **ids))
    return Grid("synthetic", cells, "python train.py -m", "made up", next(iter(arms))).save(root)
