"""Does one job of a grid: brings one cell to its end, from wherever its folder shows it to be.

It never raises for what is wrong with a cell: a failure is written beside the cell and given back, so that no launcher
stops the others for it. Killed at any moment, it can be called again.
"""

from __future__ import annotations

import io
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from isorl.agents.batched import BatchedRuns
from isorl.configs import RunConfig, UserError
from isorl.configs.command_line import resolve
from isorl.configs.errors import Interrupted
from isorl.experiments.grid import random_agent
from isorl.experiments.grid.cell import beside, folder_of, identity
from isorl.experiments.grid.expand import Composer
from isorl.experiments.grid.references import referred
from isorl.experiments.run import experiment
from isorl.experiments.run.folder import RunFolder, write_json
from isorl.experiments.run.summary import read_summary


@dataclass(frozen=True)
class Outcome:
    """Says how a job ended: `did` is run, resumed, skipped, busy (another process has it), stopped or failed."""

    folder: str
    did: str
    seconds: float
    score: float = float("nan")
    reason: str = ""


launching = False
"""Whether this process launches the grid, too: then a signal is meant for all of it, not for one worker."""


def job(composed: DictConfig) -> list[Outcome] | float:
    """Does one job of Hydra's: returns its outcomes to our own sweeper, its score to one that optimises a score.

    Without a run_dir of the user's, the run goes to the folder of its cell. `pack` in the configuration makes it
    several cells: of each its run_dir, and the overrides that only it has.
    """
    began, hydra = time.monotonic(), HydraConfig.get()
    try:
        outcomes = work_together(_cells(composed))
    except Interrupted as stopped:
        if launching:
            raise
        # a scheduler wants this worker back: what ran has saved itself, and the launcher tries again
        outcomes = [Outcome("", "stopped", time.monotonic() - began, reason=str(stopped))]
    return outcomes if hydra.sweeper._target_.endswith("GridSweeper") else outcomes[0].score


def _cells(composed: DictConfig) -> list[RunConfig]:
    """The configurations of a job's cells."""
    hydra = HydraConfig.get()
    if composed.pack:
        composer = Composer()
        common = [override for override in hydra.overrides.task if not override.startswith("pack=")]
        return [
            replace(composer([*common, *overrides]), run_dir=folder) for folder, *overrides in composed.pack
        ]
    config = referred(resolve(composed), composed.reference)
    if not any(override.startswith("run_dir=") for override in hydra.overrides.task):
        config = replace(config, run_dir=str(folder_of(config, Path(hydra.sweep.dir).absolute())))
    return [config]


class Busy(Exception):
    """Says that another process works on this cell."""


def work(config: RunConfig) -> Outcome:
    """Brings the run of `config` in its run_dir to its end; what it prints goes nowhere unless it fails.

    `score` is the mean over the visits of their mean raw return.
    """
    return work_together([config])[0]


def work_together(configs: Sequence[RunConfig]) -> list[Outcome]:
    """Does the `work` of runs that share the process, and what they compute where they are alike (agents/batched)."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        if len(configs) == 1:
            return [_work(configs[0], said)]
        # what it raises is the user's wish to stop, or a mistake of ours
        return BatchedRuns().results([partial(_work, config, said) for config in configs])


def _work(config: RunConfig, said: io.StringIO) -> Outcome:
    began, folder = time.monotonic(), Path(config.run_dir)
    failure = beside(folder, "failure.json")
    try:
        with claimed(folder):
            failure.unlink(missing_ok=True)
            try:
                did, content = _advance(config)
            except (Exception, SystemExit) as error:
                return _failed(failure, error, said.getvalue(), time.monotonic() - began)
    except Busy as busy:
        return Outcome(str(folder), "busy", time.monotonic() - began, reason=str(busy))
    return Outcome(str(folder), did, time.monotonic() - began, score_of(content))


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keeps every other process from this cell inside; the system frees the claim of a process that dies.

    Raises:
        Busy: another process does.
    """
    lock = beside(folder, "lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, blocking=False):
            yield
    except Timeout:
        raise Busy(f"another process works on '{folder}'") from None


def _advance(config: RunConfig) -> tuple[str, dict[str, Any]]:
    """(what was done, summary)."""
    folder = RunFolder(config.run_dir)
    if folder.config.is_file():
        _check_same(folder, config)
    if (content := read_summary(folder.summary)) is not None:
        return "skipped", content
    if folder.config.is_file() and config.agent["name"] != "random":
        return "resumed", experiment.resume(config.run_dir)
    return "run", begin(config)


def begin(config: RunConfig) -> dict[str, Any]:
    """Makes the run of `config` from its beginning; returns the summary."""
    start = random_agent.start if config.agent["name"] == "random" else experiment.start
    return start(config)


def _check_same(folder: RunFolder, config: RunConfig) -> None:
    if identity(folder.load_config()) != identity(config):
        raise UserError(
            f"run_dir '{folder.path}' holds a run of another configuration. Leave run_dir to the grid, which gives "
            "every configuration its own folder."
        )


def _failed(failure: Path, error: BaseException, said: str, seconds: float) -> Outcome:
    reason = f"{error}" if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    outcome = Outcome(failure.stem, "failed", seconds, reason=reason.splitlines()[0])
    write_json(
        failure, {**asdict(outcome), "score": None, "traceback": traceback.format_exc(), "said": said[-4000:]}
    )
    return outcome


def score_of(content: dict[str, Any]) -> float:
    """Returns the mean over the visits of their mean raw return; NaN where a visit has none."""
    means = [row["mean"] for row in content["returns"]]
    return float("nan") if None in means or not means else float(sum(means) / len(means))
