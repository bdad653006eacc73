"""Knows the folder of a run: what lies where, and how it comes to be.

config.yaml      the resolved configuration; `resume` and `play` read it
run.json         command line, versions, commit, hardware, and the engine that computes the updates
events.*         TensorBoard
metrics.jsonl    one record per measurement: key, value, agent_step, task, visit
probes.npz       the fixed probe batch of each task
checkpoint.pt    the newest checkpoint; checkpoint-1.pt is the one before
replay-*         DQN's replay buffer, which checkpoints refer to
summary.json     return per task and visit, evaluation of every task after every visit
run.log          what happened when
.lock            held by the process that writes here; names it
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from isorl.configs import RunConfig, UserError, typed
from isorl.configs.errors import RunStopped
from isorl.experiments.run.atomic_write import read_json, write_atomically, write_json

LOG = logging.getLogger("isorl")
_LOGGED: ContextVar[Path | None] = ContextVar("logged", default=None)
"""The folder of the run that goes on: runs that share a process take turns, each in a context of its own."""
PACKAGES = ("isorl", "torch", "stable_baselines3", "gymnasium", "ale-py", "numpy", "hydra-core")


class CannotWrite(RunStopped):
    """Says that the disk is full, read-only or gone, or that a permission is missing."""

    def __init__(self, folder: Path, error: OSError) -> None:
        at = error.filename or folder
        super().__init__(f"'{at}' cannot be written: {error.strerror or error}.")
        self.saved_at = getattr(error, "saved_at", None)


class RunFolder:
    """Holds the paths of one run, and guards them."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.probes = self.path / "probes.npz"
        self.checkpoint = self.checkpoint_path(0)
        self.summary = self.path / "summary.json"
        self.log = self.path / "run.log"
        self._lock = self.path / ".lock"

    def checkpoint_path(self, number: int) -> Path:
        """Returns the path of a checkpoint; the newest is number 0."""
        return self.path / (f"checkpoint-{number}.pt" if number else "checkpoint.pt")

    @classmethod
    def checked_new(cls, path: str | Path) -> RunFolder:
        """Returns a folder for a new run, not made yet.

        Raises:
            UserError: it exists and is not empty, or cannot be made.
        """
        folder = cls(path)
        folder.check_empty()
        parent = next(p for p in (folder.path, *folder.path.absolute().parents) if p.exists())
        if not os.access(parent, os.W_OK):
            raise UserError(f"run_dir '{path}' cannot be made: '{parent}' is not writable.")
        return folder

    @classmethod
    def existing(cls, path: str | Path) -> RunFolder:
        """Returns the folder of an earlier run.

        Raises:
            UserError: there is no run in it.
        """
        folder = cls(path)
        if not folder.config.is_file():
            reason = (
                "is not the folder of a run (it has no config.yaml)"
                if folder.path.exists()
                else "does not exist"
            )
            raise UserError(f"'{path}' {reason}.")
        return folder

    def check_empty(self) -> None:
        """Raises UserError where there is something already, but for what a writer left that died at once."""
        nothing = {self._lock, self.config.with_name("config.yaml.tmp")}
        if self.path.exists() and (not self.path.is_dir() or set(self.path.iterdir()) - nothing):
            raise UserError(
                f"run_dir '{self.path}' is not empty, and a run never writes over another. "
                f"Continue it with resume={self.path}, or choose another run_dir."
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lets this process alone write to the folder inside; the system frees the lock of a process that dies.

        Raises:
            UserError: another process has it.
            CannotWrite: something inside found the disk full, read-only, ...
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with FileLock(self._lock, blocking=False):
                self._lock.write_text(f"process {os.getpid()} on {platform.node()}")
                yield
        except Timeout:
            holder = self._lock.read_text() or "another process"
            raise UserError(
                f"'{self.path}' is in use: {holder} is writing there. Wait for it or stop it."
            ) from None
        except OSError as error:
            raise CannotWrite(self.path, error) from error

    def create(self, config: RunConfig) -> None:
        """Writes what is known before training into the folder, which is locked and empty."""
        self.check_empty()  # again: another process may have been first
        write_atomically(self.config, OmegaConf.to_yaml(OmegaConf.structured(config)).encode())
        write_json(self.path / "run.json", _provenance())

    def note(self, **facts: Any) -> None:
        """Adds facts to run.json, or replaces them."""
        path = self.path / "run.json"
        write_json(path, {**(read_json(path) or {}), **facts})

    def load_config(self) -> RunConfig:
        """Reads the configuration of the run that made this folder."""
        return typed(RunConfig, OmegaConf.load(self.config))  # type: ignore[arg-type]

    def start_log(self) -> None:
        """Sends this project's log to run.log."""
        handler = logging.FileHandler(self.log)
        _LOGGED.set(self.path)
        handler.addFilter(lambda record: _LOGGED.get() == self.path)
        handler.handleError = lambda record: None  # type: ignore[method-assign]  # a full disk ends the run elsewhere
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._handler = handler
        LOG.addHandler(handler)
        LOG.setLevel(logging.INFO)
        LOG.propagate = False

    def stop_log(self) -> None:
        """Closes run.log."""
        LOG.removeHandler(self._handler)
        self._handler.close()


def file_name(text: str) -> str:
    """Returns `text` with "_" for everything but letters, digits and _.+- so that it can name a file."""
    return re.sub(r"[^\w.+-]", "_", text)


def _provenance() -> dict[str, Any]:
    return {
        "command": " ".join(sys.argv),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
        "commit": _git_commit(),
        "machine": platform.platform(),
        "cpus": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _git_commit() -> str | None:
    """Returns the commit of the checkout that runs; None where isorl is installed, perhaps inside another checkout."""
    file = Path(__file__)
    try:
        tracked = ["git", "ls-files", "--error-unmatch", file.name]
        subprocess.run(tracked, cwd=file.parent, capture_output=True, timeout=10, check=True)
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=file.parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
