"""Lets a run go on with more cycles of its sequence, as if it had been planned so from the start."""

from __future__ import annotations

import sys
from dataclasses import replace

from omegaconf import OmegaConf

from isorl.configs import RunConfig, UserError
from isorl.experiments.run.atomic_write import write_atomically
from isorl.experiments.run.checkpoint_manager import CheckpointManager
from isorl.experiments.run.folder import RunFolder


def lengthened(config: RunConfig, cycles: int) -> RunConfig:
    """Returns `config` with more cycles; the visits so far are the first ones of the longer sequence.

    Raises:
        UserError: no more cycles than before, or a schedule that would have been another from the start.
    """
    planned = config.sequence.cycles
    if cycles <= planned:
        raise UserError(
            f"sequence.cycles={cycles}: the run has {planned} already. A run can grow, not shrink."
        )
    schedules = {
        "the learning rate falls": "learning_rate"
        if config.agent.get("learning_rate_final") is not None
        else "",
        "epsilon falls": "exploration" if config.agent["name"] == "dqn" else "",
    }
    for what, option in schedules.items():
        if option and getattr(config.switch, option) == "run":
            raise UserError(
                f"sequence.cycles={cycles}: in this run {what} over the whole run (switch.{option}=run), so a longer "
                "one would have learned otherwise from the start. Train it anew with another run_dir."
            )
    return replace(config, sequence=replace(config.sequence, cycles=cycles))


def note(folder: RunFolder, config: RunConfig, checkpoints: CheckpointManager) -> None:
    """Makes `config` that of the run; `checkpoints` have loaded one from before the end of the shorter plan.

    Whenever it is killed on the way, the folder holds a run of the shorter plan that can be resumed.

    Raises:
        UserError: nothing was saved before the end.
    """
    if checkpoints.saved_at is None:
        raise UserError(
            f"'{folder.path}' has no checkpoint from before its end, from which a longer run could go on "
            f"(checkpoint.keep={config.checkpoint.keep}). Train it anew with another run_dir."
        )
    for path in (folder.summary, *checkpoints.outgrown):
        path.unlink(missing_ok=True)
    write_atomically(folder.config, OmegaConf.to_yaml(OmegaConf.structured(config)).encode())
    folder.note(lengthened=" ".join(sys.argv))
