"""Finds runs in the paths that a user names: grids, run folders, folders of either, TensorBoard logs of others."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from isorl.configs import UserError
from isorl.experiments.grid.cell import Cell, State, identity, learner
from isorl.experiments.grid.grid import FILE, Grid
from isorl.experiments.grid.references import fresh, random
from isorl.experiments.report.labels import NO_ENVIRONMENT, Group, LogName, name_logs, tell_apart
from isorl.experiments.report.read_tensorboard import read_tensorboard
from isorl.experiments.report.runs import Run, read
from isorl.experiments.run.folder import RunFolder
from isorl.experiments.terminal import explain

MAX_MATCHED = 500
"""Runs whose references are looked for by their whole configurations, at most; it takes 20 ms each."""
KEYS = ("agent", "network", "optimizer", "method", "sequence", "seed")
"""Some of the keys of every config.yaml of this project."""
UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError)
"""What files provoke that are damaged or of another version."""


@dataclass
class Found:
    """Holds what lies in the named paths.

    Attributes:
        runs: every run once, with the names of its sequence and its arm.
        grid: the grid to which all of them belong, if they do.
        folder: of that grid.
        notes: sentences on how runs were told apart.
        warnings: sentences on what cannot be trusted or was left out.
    """

    runs: list[Run]
    grid: Grid | None = None
    folder: Path | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass
class _Places:
    """Folders of grids, of runs and of other TensorBoard logs, each once."""

    grids: dict[Path, Path] = field(default_factory=dict)  # resolved -> as named
    runs: dict[Path, Path] = field(default_factory=dict)  # resolved -> as named
    logs: dict[Path, Path] = field(default_factory=dict)  # -> the path below which its name begins


def find_runs(paths: Iterable[Path]) -> Found:
    """Returns every run below `paths`.

    Raises:
        UserError: nothing of the kind is there.
    """
    paths, places = list(paths), _Places()
    for path in paths:
        _look(path, places)
    grids, unread = _load_grids(places.grids.values(), paths)
    of_grids, groups = [], []
    for grid in grids:
        runs, alike = _of_grid(grid)
        of_grids += runs
        groups += alike
    known = {run.folder.resolve() for run in of_grids}
    alone = [
        group for folder, path in places.runs.items() if folder not in known for group in _of_folder(path)
    ]
    _match(of_grids, alone)
    notes = tell_apart([*groups, *alone])
    ours, repeated = _each_once([*of_grids, *(run for group in alone for run in group.runs)])
    others = [_of_log(log, name) for log, name in name_logs(places.logs).items()]
    everything = [*map(_read, ours), *others]
    found = Found(
        everything, notes=[*notes, *repeated, *_on_logs(others)], warnings=[*unread, *_warnings(everything)]
    )
    if len(grids) == 1 and not alone and not others:
        found.grid, found.folder = grids[0], next(iter(places.grids.values()))
    return found


def _look(path: Path, places: _Places) -> None:
    if not path.exists():
        raise UserError(f"There is no '{path}'.")
    found = False
    for name, inside, files in os.walk(path):
        folder, here = Path(name), set(files)
        inside.sort()
        if FILE in here:
            places.grids.setdefault(folder.resolve(), folder)
        elif "config.yaml" in here and _is_ours(folder / "config.yaml"):
            places.runs.setdefault(folder.resolve(), folder)
        elif any(file.startswith("events.out.tfevents.") for file in files):
            places.logs.setdefault(folder, path.parent if folder == path else path)
        else:
            if "report.html" in here and "tensorboard" in inside:
                inside.remove("tensorboard")  # of an earlier report
            continue
        found = True
        if folder not in places.logs:
            inside.clear()
    if not found:
        raise UserError(f"'{path}' holds no grid ({FILE}), no run (config.yaml) and no TensorBoard log.")


def _is_ours(config: Path) -> bool:
    """Whether a config.yaml has the keys of this project's, by its text: to read it takes thirty times as long."""
    text = "\n" + config.read_text(errors="replace")
    return all(f"\n{key}:" in text for key in KEYS)


def _load_grids(folders: Iterable[Path], named: Sequence[Path]) -> tuple[list[Grid], list[str]]:
    """The grids, and what is wrong with those that cannot be read and were not named themselves."""
    grids, unread = [], []
    for folder in folders:
        try:
            grids.append(Grid.load(folder))
        except UserError as error:
            if folder in named:
                raise
            unread.append(f"A grid is left out. {error}")
    return grids, unread


def _of_grid(grid: Grid) -> tuple[list[Run], list[Group]]:
    """The runs of a grid, and those of them that differ in their seeds alone, where a configuration was written."""
    alike: dict[tuple[str, ...], list[Run]] = {}
    for cell in grid.cells:
        rest = (override for override in cell.overrides if not override.startswith("seed="))
        alike.setdefault((cell.sequence, cell.arm, *rest), []).append(_of_cell(cell))
    groups: list[Group] = []
    sequences: dict[str, Any] = {}  # a grid's arms on one sequence are to be compared, even if they change it
    for runs in alike.values():
        config = next((config for run in runs if (config := _config_of(run.folder))), None)
        if config is not None:
            sequence = sequences.setdefault(runs[0].sequence, config["sequence"])
            groups.append(Group(runs, {**config, "sequence": sequence}))
    return [run for runs in alike.values() for run in runs], groups


def _of_cell(cell: Cell) -> Run:
    return Run(id=cell.id, folder=cell.folder, sequence=cell.sequence, arm=cell.arm, seed=cell.seed, kind=cell.kind,
               fresh=cell.fresh, random=cell.random, state=cell.state())  # fmt: skip


def _config_of(folder: Path) -> dict[str, Any] | None:
    """What config.yaml holds; None where there is none of this project's."""
    try:
        with (folder / "config.yaml").open() as file:
            config = yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, yaml.YAMLError):
        return None
    return config if isinstance(config, dict) and set(KEYS) <= config.keys() else None


def _of_folder(folder: Path) -> list[Group]:
    """The run in `folder`, its arm named by what its configuration says; nothing where that cannot be read."""
    config = _config_of(folder)
    if config is None:
        return []
    parts = [
        config["agent"].get("name"),
        config["network"].get("activation"),
        config["optimizer"].get("name"),
    ]
    if config["network"].get("layer_norm"):
        parts.append("layer_norm")
    name = " ".join(str(part) for part in [*parts, *config["method"]] if part)
    state = Cell(str(folder), folder, (), "", "", 0, 0).state()
    run = Run(str(folder), folder, config["sequence"]["name"], name, int(config["seed"]), state=state)
    return [Group([run], config)]


def _match(of_grids: Sequence[Run], alone: Sequence[Group]) -> None:
    """Finds the references of runs among the others, by their identities, where no grid has named them."""
    single = [run for group in alone for run in group.runs]
    swept = [run for run in of_grids if run.kind == "arm" and not run.fresh and not run.random]
    if len(single) + len(swept) > MAX_MATCHED:
        return
    configs = {}
    for run in [*single, *swept]:
        try:
            configs[run.folder] = RunFolder(run.folder).load_config()
        except UNREADABLE:  # not there yet, or of a version with other options
            continue
    for run in single:
        if (config := configs.get(run.folder)) is None:
            continue
        run.id = identity(config)
        if config.agent["name"] == "random":
            run.kind, run.arm = "random", "random"
        elif list(config.method) == ["full_reset"]:
            run.kind, run.arm = "fresh", " ".join(["fresh", *learner(config)[1:]])
    known = {run.id for run in [*of_grids, *single]}
    for run in [*single, *swept]:
        if (config := configs.get(run.folder)) is not None and run.kind != "random":
            wanted = {"fresh": identity(fresh(config)), "random": identity(random(config))}
            run.fresh, run.random = (id if id in known else "" for id in wanted.values())


def _each_once(runs: Iterable[Run]) -> tuple[list[Run], list[str]]:
    """The runs without those that repeat another (all settings and the seed are the same), and a sentence on these."""
    kept: dict[tuple[object, ...], Run] = {}
    repeated: list[Run] = []
    for run in runs:
        place = (run.sequence, run.arm, run.seed, run.id if run.id != str(run.folder) else None)
        other = kept.setdefault(place, run)
        if other is not run and other.folder.resolve() != run.folder.resolve():
            if run.state is State.FINISHED and other.state is not State.FINISHED:
                kept[place], run = run, other
            repeated.append(run)
    if not repeated:
        return list(kept.values()), []
    folders = ", ".join(f"'{run.folder}'" for run in repeated[:3])
    return list(kept.values()), [
        f"{len(repeated)} folders repeat a run that lies elsewhere, with every setting and the seed the same; they are "
        f"left out: {folders}{' and more' if len(repeated) > 3 else ''}."
    ]


def _read(run: Run) -> Run:
    """What the folder of `run` holds; a run that cannot be read must not end the report of the others."""
    empty = replace(run, notes=list(run.notes))
    try:
        return read(run)
    except UNREADABLE as error:
        empty.state, empty.is_unreadable = State.FAILED, True
        empty.notes.append(f"its files cannot be read: {type(error).__name__}: {explain(error)}")
        return empty


def _of_log(folder: Path, name: LogName) -> Run:
    run = Run(id=str(folder), folder=folder, sequence=name.sequence, arm=name.arm, seed=name.number)
    try:
        return read_tensorboard(run)
    except UNREADABLE as error:
        run.state, run.is_unreadable = State.FAILED, True
        run.notes.append(f"its log cannot be read: {type(error).__name__}: {explain(error)}")
        return run


def _on_logs(logs: Sequence[Run]) -> list[str]:
    if not logs:
        return []
    return [
        "Logs of other programs are told apart by their folders: one that names an environment is the sequence, the "
        "others are the arm, and the number at the end (PPO_1, PPO_2) is that of the run. It is no seed: runs of one "
        "number in two arms have nothing in common."
    ]


def _warnings(runs: Sequence[Run]) -> list[str]:
    found = []
    unnamed = list(dict.fromkeys(run.arm for run in runs if run.sequence == NO_ENVIRONMENT))
    if len(unnamed) > 1:
        found.append(
            f"No folder of {_listed(unnamed)} names an environment, and logs of stable-baselines3 do not say it: they "
            "are compared as if all had learned in the same one. If not, put each into a folder that is called like "
            "its environment (CartPole-v1/PPO_1)."
        )
    if unread := [_named(run) for run in runs if run.is_unreadable]:
        found.append(
            f"The files of {_listed(unread)} cannot be read: they count as failed and are in no figure. 'What is "
            "missing' says why."
        )
    nan = [_named(run) for run in runs if run.has_no_returns]
    if nan:
        found.append(
            f"The returns of {_listed(nan)} are NaN: the run diverged, or no episode ended. It is left out of every "
            "mean, which flatters an arm whose runs diverge."
        )
    return found


def _named(run: Run) -> str:
    return f"{run.arm} on {run.sequence}, run {run.seed}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
