"""Works off a grid: cells -> cost -> jobs, round after round while some die -> what is finished and what is not."""

from __future__ import annotations

import hashlib
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from isorl.configs import UserError, imports, typed
from isorl.configs.command_line import quoted
from isorl.configs.program import command, name
from isorl.configs.suite import BenchmarkConfig
from isorl.experiments import plugins, terminal
from isorl.experiments.grid import cost, results_table, tuning, work
from isorl.experiments.grid.cell import Cell, State
from isorl.experiments.grid.expand import Composer, cells, requests_of_benchmark, requests_of_sweep
from isorl.experiments.grid.grid import Grid
from isorl.experiments.grid.packs import overrides_of, sharing
from isorl.experiments.grid.progress_table import states, watching
from isorl.experiments.grid.references import REFERENCES
from isorl.experiments.grid.watch import Watch
from isorl.experiments.run.atomic_write import read_json
from isorl.experiments.run.stopping import interrupted_once
from isorl.experiments.terminal import say

ROUNDS = 5
"""Launches of what is not finished: a killed worker or node takes its cells along, and the next round resumes them."""
UNFINISHED, STOPPED = 1, 130
"""Exit codes; a mistake of the user's is 2."""
MAX_LISTED = 20
"""Failures that are listed at the end."""


Jobs = Callable[[list[Cell]], list[list[Cell]]]
"""Groups the cells that are to be done into those that share a process."""


class Launcher(Protocol):
    """Describes what is needed of Hydra's launchers."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        """Runs the jobs, each with its overrides."""


def launch(config: DictConfig, overrides: Sequence[str], launcher: Launcher) -> int:
    """Works off the grid that `config` and `overrides` describe; returns the exit code.

    Args:
        config: of the sweep as Hydra composed it; its hydra.sweep.dir is where everything goes.
        overrides: of the command line, Hydra's own left out.
        launcher: runs the jobs.

    Raises:
        UserError: whatever in the overrides cannot work, before anything is written.
    """
    console, root = terminal.console(stderr=True), Path(config.hydra.sweep.dir).absolute()
    composer, suite = Composer(), suite_of(config)
    only_show, overrides = _take_dry_run(overrides)
    overrides = with_imports(suite, [each for each in overrides if not each.startswith("references=")])
    grid = plan(suite, overrides, root, composer, list(REFERENCES) if config.get("references") else [])
    jobs = sharing(config, composer)
    say_cost(grid.name, grid.cells, config, composer, jobs, console)
    if only_show:
        return 0
    folder = grid.save(root)
    with interrupted_once():
        stopped = work_off(grid.cells, launcher, jobs)
        return conclude(grid, folder, stopped, console)


def suite_of(config: DictConfig) -> BenchmarkConfig | None:
    """Returns the benchmark of a sweep; None where it is a plain one."""
    if "benchmark" not in config or config.benchmark is None:
        return None
    return typed(BenchmarkConfig, OmegaConf.to_container(config.benchmark, resolve=True))  # type: ignore[arg-type]


def with_imports(suite: BenchmarkConfig | None, overrides: Sequence[str]) -> list[str]:
    """Imports what the benchmark names; returns the overrides with all that this process has imported so."""
    if suite is None or not suite.imports:
        return list(overrides)
    plugins.load(suite.imports)
    rest = [override for override in overrides if not override.startswith("imports=")]
    return [*rest, f"imports=[{','.join(map(quoted, imports.named()))}]"]


def _take_dry_run(overrides: Sequence[str]) -> tuple[bool, list[str]]:
    rest = [override for override in overrides if not override.startswith("dry_run=")]
    return any(override.lower() == "dry_run=true" for override in overrides), rest


def plan(
    suite: BenchmarkConfig | None,
    overrides: Sequence[str],
    root: Path,
    composer: Composer,
    references: Sequence[str] = (),
) -> Grid:
    """Returns the grid, every cell of it composed and checked, with `references` and those of the benchmark."""
    typed = f"{command('train')} {shlex.join(sys.argv[1:])}"
    if suite is None:
        made = cells(requests_of_sweep(overrides), references, root, composer)
        return Grid(f"sweep-{_digest(made)}", made, typed, about="a sweep of the command line")
    overrides = [
        override
        for override in overrides
        if not override.lstrip("+~").startswith(("benchmark=", "benchmark."))
    ]
    baseline = suite.baseline or next(iter(suite.arms))
    made = cells(
        requests_of_benchmark(suite, overrides, tuning.settings(suite)),
        [*suite.references, *references],
        root,
        composer,
    )
    return Grid(suite.name, made, typed, suite.about, baseline, tuning.record_of(suite))


def _digest(made: Sequence[Cell]) -> str:
    return hashlib.sha256("".join(sorted(cell.id for cell in made)).encode()).hexdigest()[:8]


def say_cost(
    name: str, made: Sequence[Cell], config: DictConfig, composer: Composer, jobs: Jobs, console: Console
) -> None:
    """Prints what is left to do of the cells `made`, and what it will cost."""
    left = jobs([cell for cell in made if cell.state() is not State.FINISHED])
    planned = cost.forecast(
        made, left, lambda job: cost.measured_speed([composer(cell.overrides) for cell in job])
    )
    cost.show(name, made, planned, cost.at_once(config.hydra.launcher), console)


def work_off(
    made: Sequence[Cell],
    launcher: Launcher,
    jobs: Jobs,
) -> bool:
    """Launches what is not finished until nothing is left that died; returns whether the user stopped it.

    A cell that failed is not tried again in this launch: the next round would fail alike.

    Args:
        made: the cells.
        launcher: runs jobs.
        jobs: which cells share one.
    """
    work.launching = True
    started = 0
    tried: set[str] = set()
    with watching(Watch(made)):
        for _ in range(ROUNDS):
            left = [cell for cell in made if _to_do(cell, tried)]
            tried |= {cell.id for cell in left}
            if not left:
                return False
            todo = [overrides_of(job) for job in jobs(left)]
            try:
                ended = launcher.launch(todo, initial_job_idx=started)
            except (KeyboardInterrupt, SystemExit):
                return True
            except Exception as error:  # of the launcher: a node, a worker, a scheduler was lost
                say(f"The launcher lost jobs ({type(error).__name__}); what died is resumed.")
            else:
                if all(outcome.did == "busy" for job in ended for outcome in job.return_value):
                    return False  # another launcher has what is left
            started += len(left)
    return False


def _to_do(cell: Cell, tried: set[str]) -> bool:
    state = cell.state()
    return state is not State.FINISHED and not (state is State.FAILED and cell.id in tried)


def conclude(grid: Grid, folder: Path, stopped: bool, console: Console) -> int:
    """Says what is finished and why the rest is not; returns the exit code."""
    count = states(Watch(grid.cells).look())
    if count[State.FINISHED]:
        console.print(results_table.table(grid.cells))
    say(f"{count[State.FINISHED]} of {len(grid.cells)} cells are finished.")
    failed = [cell for cell in grid.cells if cell.state() is State.FAILED]
    for cell in failed[:MAX_LISTED]:
        reason = (read_json(cell.failure) or {}).get("reason", "its reason cannot be read")
        say(f"failed: {cell.sequence} {cell.arm} seed {cell.seed}: {reason}")
    if len(failed) > MAX_LISTED:
        say(f"... and {len(failed) - MAX_LISTED} more; each has a *.failure.json beside its folder.")
    whole = count[State.FINISHED] == len(grid.cells)
    if not whole:
        say("Give the same command again to go on: finished cells are skipped, started ones resumed.")
    say(f"Report: {command('report')} {folder}")
    return STOPPED if stopped else 0 if whole else UNFINISHED


def refuse(error: UserError) -> None:
    """Ends the process with one message and exit code 2."""
    say(f"{name('train')}: {error}")
    sys.exit(2)
