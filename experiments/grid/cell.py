"""A cell of a grid: one run, known by a hash of its resolved configuration, with a folder that says how far it is.

The folder is the only truth. Nothing else is kept about a cell, so a launcher may die at any moment.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from isorl.configs import RunConfig
from isorl.experiments.run.folder import file_name
from isorl.experiments.run.summary import read_summary

CELLS = "cells"
"""Name of the folder of all cells, beside `grids`."""
NOT_PART_OF_A_CELL = ("run_dir", "device", "threads", "checkpoint", "logger", "imports")
"""Options that say where and how a run is made, not what it computes."""
CANDIDATE = " | "
"""Separates the name of an arm from the settings that tuning tries for it."""
NOT_PART_OF_A_SEQUENCE = ("tuning", "source")
"""Fields left out of a cell's identity: the tuned values have been filled in where they apply."""


class State(StrEnum):
    """Names what a cell's folder shows about how far it is."""

    WAITING = "waiting"
    """Nothing is there."""
    STARTED = "started"
    """It runs somewhere, or died on the way."""
    FAILED = "failed"
    """It ended with an error; the next launch tries again."""
    FINISHED = "finished"


def identity(config: RunConfig) -> str:
    """Returns 12 hex digits of SHA-256 over everything in `config` that can change a result.

    The order of methods counts (they act in this order), that of other keys does not; 1 and 1.0 are one value.
    """
    content: dict[str, Any] = asdict(config)
    for key in NOT_PART_OF_A_CELL:
        del content[key]
    for key in NOT_PART_OF_A_SEQUENCE:
        del content["sequence"][key]
    content["method"] = list(content["method"].items())
    text = json.dumps(_plain(content), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def learner(config: RunConfig) -> list[str]:
    """Returns the names of the agent, network and optimizer of `config`; fewer for the random agent."""
    isometry = config.network.get("isometry", "none")
    network = [str(config.network.get("activation", "")), "layer_norm" if config.network.get("layer_norm") else "",
               isometry if isometry in ("projected", "hard") else ""]  # fmt: skip
    names = (config.agent["name"], "+".join(filter(None, network)), config.optimizer.get("name"))
    return [str(name) for name in names if name]


def folder_of(config: RunConfig, root: str | Path) -> Path:
    """Returns where the cell of `config` lives under `root`: a readable path, unique by its identity."""
    name = "-".join(re.sub(r"[^\w.+]", "_", part) for part in [*learner(config), *config.method])
    return (
        Path(root) / CELLS / file_name(config.sequence.name) / f"{name}-seed{config.seed}-{identity(config)}"
    )


@dataclass(frozen=True)
class Cell:
    """Describes one run of a grid.

    Attributes:
        id: its identity.
        folder: where it lives; absolute, so that a worker elsewhere finds it.
        overrides: what train.py is told to make it.
        sequence: row of the benchmark.
        arm: what is compared: a name of the benchmark, or the overrides that a sweep varies.
        seed: of the run.
        agent_steps: its planned length.
        kind: "arm", "fresh" or "random" (experiments/grid/references.py).
        fresh: identity of the cell that learns each of its tasks from scratch, "" if the grid has none.
        random: identity of the cell that acts at random on its tasks, "" if the grid has none.
    """

    id: str
    folder: Path
    overrides: tuple[str, ...]
    sequence: str
    arm: str
    seed: int
    agent_steps: int
    kind: str = "arm"
    fresh: str = ""
    random: str = ""

    @property
    def failure(self) -> Path:
        """The file with the reason why the last attempt failed; it lies beside the folder, which may not exist."""
        return beside(self.folder, "failure.json")

    def state(self) -> State:
        """Reads from the folder how far the cell is."""
        if self.summary() is not None:
            return State.FINISHED
        if self.failure.is_file():
            return State.FAILED
        return State.STARTED if (self.folder / "config.yaml").is_file() else State.WAITING

    def summary(self) -> dict[str, Any] | None:
        """Returns the summary with which the run ended; None where there is none yet, or a damaged one."""
        return read_summary(self.folder / "summary.json")

    def steps_done(self) -> int:
        """Returns the agent step of the newest measurement; 0 before the first."""
        return (
            self.agent_steps if self.state() is State.FINISHED else newest_step(self.folder / "metrics.jsonl")
        )


def beside(folder: Path, suffix: str) -> Path:
    """Returns the path of a file about a cell that does not lie in its folder."""
    return folder.parent / ".cells" / f"{folder.name}.{suffix}"


def newest_step(metrics: Path, tail_bytes: int = 4096) -> int:
    """Returns `agent_step` of the last whole record of metrics.jsonl; 0 where there is none."""
    try:
        with metrics.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - tail_bytes, 0))
            found = re.findall(rb'"agent_step": (\d+)', file.read())
    except OSError:
        return 0
    return int(found[-1]) if found else 0
