"""Accepted command lines are run: train.py's own entry reads every word as it was given, and trains for a few steps.

Only how much is done differs: of what the words have been resolved to, lengths, repetitions and the sizes of probes
are cut, each to a number below its own.
"""

import os
import resource
import shutil
import signal
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from hydra.core.global_hydra import GlobalHydra

import isorl.experiments.grid.references
import isorl.experiments.grid.work
import isorl.experiments.run.dry_run  # noqa: F401  imported, as what else train.py needs, before processes are forked
from isorl import train
from isorl.configs import RunConfig
from isorl.configs.command_line import resolve
from isorl.configs.schema import TaskConfig
from tests.faults.runs import FORK

STEPS = 64
"""Agent steps of a visit."""
MOST = {"learning_starts": 32, "n_epochs": 2, "gradient_steps": 4}
"""Options of agents, and what is enough of them."""
SECONDS = 300
"""After which a run is asked to stop by SIGTERM; it has as long again until that counts as a hang."""
MEMORY = 8 * 2**30
"""Bytes. What would take more shall fail by itself, not fill the machine."""


def run_each(folder: Path, lines: list[list[str]], faults: dict[str, list[str]]) -> Counter:
    """How the runs of `lines` ended; those that ended as none may are put into `faults`, a line for each kind."""
    counts: Counter = Counter()
    for number, words in enumerate(lines, 1):
        path = folder / "short"
        path.mkdir()
        try:
            counts[_run(words, path)] += 1
        except AssertionError as error:
            counts["ended badly"] += 1
            faults.setdefault(str(error), words)
        shutil.rmtree(path)
        print(
            f"\r{number} of {len(lines)} runs: {dict(counts)}, {faults}", end="", file=sys.stderr, flush=True
        )
    return counts


def _run(words: list[str], path: Path) -> str:
    """How the run ended."""
    process = FORK.Process(target=_live, args=(words, path))
    process.start()
    process.join(SECONDS)
    if asked := process.is_alive():
        process.terminate()
        process.join(SECONDS)
    if hangs := process.is_alive():
        process.kill()
        process.join()
    assert not hangs, f"no end {SECONDS} s after SIGTERM"
    return ending(process.exitcode, (path / "stderr").read_text(), asked)


def _live(words: list[str], path: Path) -> None:
    os.chdir(path)
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "HYDRA_FULL_ERROR": "1"}  # else Hydra cuts tracebacks
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    sys.stdout, sys.stderr = (path / "stdout").open("w"), (path / "stderr").open("w")
    os.dup2(sys.stderr.fileno(), 2)  # what C code says
    sys.argv = ["train.py", *words, f"run_dir={path / 'run'}"]
    GlobalHydra.instance().clear()
    with mock.patch.object(train, "resolve", lambda composed: short(resolve(composed))):
        train.main()


def ending(code: int | None, said: str, asked: bool) -> str:
    """What exit code and stderr of a run amount to.

    Raises:
        AssertionError: a traceback, more than one message, or an exit code that is not promised.
    """
    last = (said.strip().splitlines() or [""])[-1]
    message = " ".join(said.split())  # it is wrapped
    if "Traceback (most recent call last)" not in said:
        if code == 0:
            return "finished"
        if code == 2 and message.startswith("train.py: ") and message.count("train.py: ") == 1:
            return "refused when built"
        if code == 1 and "not finite" in message:
            return "numbers not finite"
        if code in (143, -signal.SIGTERM) and asked:
            return "stopped in time"
    raise AssertionError(f"exit code {code}: {last}"[:120])


def short(config: RunConfig) -> RunConfig:
    """The same run of two tasks, once each, for a few steps."""
    diagnostics, evaluation = config.diagnostics, config.evaluation
    return replace(
        config,
        threads=1,
        agent={key: _at_most(MOST.get(key), value) for key, value in config.agent.items()},
        sequence=replace(
            config.sequence, cycles=1, tasks=[_short(task) for task in config.sequence.tasks[:2]]
        ),
        diagnostics=replace(
            diagnostics,
            every=max(diagnostics.every, STEPS) if diagnostics.every else 0,  # less often
            probe_size=_at_most(8, diagnostics.probe_size),
        ),
        evaluation=replace(
            evaluation,
            episodes=_at_most(1, evaluation.episodes),
            max_episode_steps=_at_most(20, evaluation.max_episode_steps or 20),
        ),
    )


def _short(task: TaskConfig) -> TaskConfig:
    return replace(
        task,
        count=_at_most(2, task.count),
        agent_steps=_at_most(STEPS, task.agent_steps),
        frames=_at_most(4 * STEPS, task.frames),
    )


def _at_most(most: int | None, value: Any) -> Any:
    return min(most, value) if most is not None and isinstance(value, (int, float)) else value
