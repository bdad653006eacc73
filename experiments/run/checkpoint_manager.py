"""Keeps a run resumable: snapshots in memory between rollouts, checkpoints on disk now and then.

A snapshot is the content of a checkpoint that is not written yet. When a run has to stop in the middle of a rollout,
of an update or of an evaluation, the latest snapshot is written: what was done since is done again by `resume`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isorl.agents import Agent
from isorl.configs import UserError
from isorl.configs.schema import CheckpointConfig
from isorl.experiments.run import checkpoint, checkpoint_file
from isorl.experiments.run.atomic_write import sync_path, write_atomically
from isorl.experiments.run.folder import LOG, RunFolder
from isorl.experiments.run.recording import record_files
from isorl.experiments.run.replay_log import ReplayLog
from isorl.experiments.run.run_state import RunState

PATIENCE = 200
"""Times its own cost that pass between two snapshots: they take half a percent of the time."""


@dataclass(frozen=True)
class Snapshot:
    """Holds a run as it was between two rollouts."""

    agent_step: int
    content: bytes
    replay: dict[str, Any] | None  # which part of the replay log belongs to it


MOST_KEPT = 100


class CheckpointManager:
    """Writes and reads the checkpoints of one run, newest first: checkpoint.pt, checkpoint-1.pt, ...

    Args:
        folder: of the run.
        config: how many are kept, and whether the replay buffer belongs to them.
        agent: what is saved.
    """

    def __init__(self, folder: RunFolder, config: CheckpointConfig, agent: Agent) -> None:
        self.folder, self.config, self.agent = folder, config, agent
        replay = getattr(agent, "replay_buffer", None)
        self._log = ReplayLog(folder.path, replay) if replay is not None and config.replay else None
        self._latest: Snapshot | None = None
        self._kept: list[dict[str, Any] | None] = []  # the replay of each checkpoint, newest first
        self._next = 0.0
        self.warnings: list[str] = []  # of `load`
        self.outgrown: list[Path] = []  # passed over by `load`: they end a plan that has grown since
        self.saved_at: int | None = None
        """Agent step of the newest checkpoint that this process has written or read."""

    @property
    def is_due(self) -> bool:
        """Whether a snapshot is worth its cost now."""
        return time.monotonic() >= self._next

    def take(self, run: Callable[[], dict[str, Any]]) -> None:
        """Takes a snapshot in memory of the agent, between two rollouts, and of what `run` returns."""
        if not self.agent.num_timesteps:
            return  # nothing is lost by beginning anew
        begin = time.monotonic()
        replay = self._log.append() if self._log else None
        state = checkpoint.gather(self.agent, run()) | {"replay": replay}
        self._latest = Snapshot(self.agent.num_timesteps, checkpoint_file.to_bytes(state), replay)
        now = time.monotonic()
        self._next = now + PATIENCE * self.agent.num_runs_in_process * (now - begin)

    def write(self) -> None:
        """Makes the latest snapshot the newest checkpoint, if it is not one yet.

        Raises:
            OSError: the disk is full, read-only, ...; the checkpoints that were there still are.
        """
        snapshot = self._latest
        if snapshot is None:
            return
        for path in record_files(self.folder.path):
            sync_path(path)
        if self._log and snapshot.replay:
            self._log.sync(snapshot.replay)
        self._keep_older()
        write_atomically(self.folder.checkpoint, snapshot.content)
        self._latest, self.saved_at = None, snapshot.agent_step
        self._kept = [snapshot.replay, *self._kept][: self.config.keep]
        if self._log:
            self._log.remove_all_but([replay for replay in self._kept if replay is not None])
        LOG.info("checkpoint at agent step %d", snapshot.agent_step)

    def load(self, run: RunState) -> bool:
        """Puts the newest checkpoint that is whole into the agent and `run`; returns False where there is none.

        Raises:
            UserError: there are checkpoints, and none of them can be used.
        """
        refused: list[str] = []
        paths = self.paths()
        for number, path in enumerate(paths):
            try:
                state = checkpoint_file.read(path, self.agent.device)
                if self._is_outgrown(state):
                    self.outgrown.append(path)
                    continue
                replay = self._restore(state, run)
            except UserError as error:
                refused.append(f"The checkpoint '{path}' cannot be used. {error}")
                continue
            for message in refused:
                self.warnings.append(f"{message} The one before is used.")
            self.saved_at = self.agent.num_timesteps
            self._kept = [replay, *map(_replay_of, paths[number + 1 :])]
            return True
        if refused:
            raise UserError(refused[0])
        return False

    def _is_outgrown(self, state: dict[str, Any]) -> bool:
        """Tells whether the last visit of its plan had been closed, with an evaluation, and is not the last of ours."""
        try:
            visits = self.agent.env.unwrapped.sequence.visits  # type: ignore[union-attr]
            closed = len(state["run"]["diagnostics"])
            return state["environment"]["visit"][0] < closed < len(visits)
        except Exception as error:
            raise UserError(f"It does not fit this run: {type(error).__name__}: {error}") from error

    def _restore(self, state: dict[str, Any], run: RunState) -> dict[str, Any] | None:
        replay = state.pop("replay", None)
        checkpoint.restore(self.agent, state)
        try:
            run.load_state_dict(state["run"])
            if self._log and replay is not None:
                self._log.load(replay)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"It does not fit this run: {type(error).__name__}: {error}") from error
        return replay

    def paths(self) -> list[Path]:
        """Returns the checkpoints that are there, newest first."""
        return [path for path in map(self.folder.checkpoint_path, range(MOST_KEPT)) if path.exists()]

    def _keep_older(self) -> None:
        """Every checkpoint becomes one older; the newest is there under both names until it is replaced."""
        for number in range(self.config.keep - 1, 0, -1):
            newer, older = self.folder.checkpoint_path(number - 1), self.folder.checkpoint_path(number)
            if number > 1 and newer.exists():
                os.replace(newer, older)
            elif newer.exists():
                older.unlink(missing_ok=True)
                os.link(newer, older)


def _replay_of(path: Path) -> dict[str, Any] | None:
    try:
        return checkpoint_file.read(path).get("replay")
    except UserError:
        return None
