"""Finds runs in the paths that a user names: grids, run folders, folders of either, TensorBoard logs of others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from isorl.configs import UserError
from isorl.experiments.grid.cell import Cell, identity, learner
from isorl.experiments.grid.grid import FILE, Grid
from isorl.experiments.grid.references import fresh, random
from isorl.experiments.report.read_tensorboard import read_tensorboard
from isorl.experiments.report.runs import Run, read
from isorl.experiments.run.folder import RunFolder

MAX_MATCHED = 500
"""Runs without a grid whose references are looked for by their whole configuration; it takes 20 ms each."""


def find_runs(paths: Iterable[Path]) -> tuple[list[Run], Grid | None]:
    """Returns every run below `paths`, and the grid if exactly one was named.

    Raises:
        UserError: nothing of the kind is there.
    """
    grids: list[Grid] = []
    runs: dict[Path, Run] = {}
    for path in paths:
        found = list(_below(path, grids))
        if not found:
            raise UserError(
                f"'{path}' holds no grid (grid.json), no run (config.yaml) and no TensorBoard log."
            )
        runs |= {run.folder: run for run in found}
    loose = [
        run for run in runs.values() if run.id == str(run.folder) and (run.folder / "config.yaml").is_file()
    ]
    if len(loose) <= MAX_MATCHED:
        _match(loose)
    return list(runs.values()), grids[0] if len(grids) == 1 else None


def _below(path: Path, grids: list[Grid]) -> Iterator[Run]:
    if not path.exists():
        raise UserError(f"There is no '{path}'.")
    if (path / FILE).is_file():
        grids.append(Grid.load(path))
        yield from (read(_of_cell(cell)) for cell in grids[-1].cells)
    elif (path / "config.yaml").is_file():
        yield read(_of_folder(path))
    else:
        configs = sorted(path.rglob("config.yaml"))
        yield from (read(_of_folder(config.parent)) for config in configs)
        ours = {config.parent for config in configs}
        logs = sorted({file.parent for file in path.rglob("events.out.tfevents.*")} - ours)
        yield from (read_tensorboard(log) for log in logs if not _inside_grid(log))


def _inside_grid(log: Path) -> bool:
    return any((parent / FILE).is_file() for parent in log.parents)  # its comparison for TensorBoard


def _of_cell(cell: Cell) -> Run:
    return Run(id=cell.id, folder=cell.folder, sequence=cell.sequence, arm=cell.arm, seed=cell.seed, kind=cell.kind,
               fresh=cell.fresh, random=cell.random, state=cell.state())  # fmt: skip


def _of_folder(folder: Path) -> Run:
    """A run without a grid: its arm is named by what its configuration says."""
    with (folder / "config.yaml").open() as file:
        config: dict[str, Any] = yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    parts = [
        config["agent"].get("name"),
        config["network"].get("activation"),
        config["optimizer"].get("name"),
    ]
    if config["network"].get("layer_norm"):
        parts.append("layer_norm")
    name = " ".join(str(part) for part in [*parts, *config["method"]] if part)
    state = Cell(str(folder), folder, (), "", "", 0, 0).state()
    return Run(str(folder), folder, config["sequence"]["name"], name, int(config["seed"]), state=state)


def _match(runs: list[Run]) -> None:
    """Finds the references of runs without a grid among them, by their identities."""
    configs = {run.id: RunFolder(run.folder).load_config() for run in runs}
    ids = {key: identity(config) for key, config in configs.items()}
    known = set(ids.values())
    for run in runs:
        config = configs[run.id]
        run.id = ids[run.id]
        if config.agent["name"] == "random":
            run.kind, run.arm = "random", "random"
        elif list(config.method) == ["full_reset"]:
            run.kind, run.arm = "fresh", " ".join(["fresh", *learner(config)[1:]])
        wanted = {"fresh": identity(fresh(config)), "random": identity(random(config))}
        run.fresh = wanted["fresh"] if wanted["fresh"] in known and run.kind != "random" else ""
        run.random = wanted["random"] if wanted["random"] in known else ""
