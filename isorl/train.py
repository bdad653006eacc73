"""What `isorl train` and `python train.py` do with their words: make a run, a grid of runs, a plan or videos."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from isorl.configs.command_line import (
    GROWS,
    check_overrides,
    imports_in,
    prepared,
    register_resolvers,
    resolve,
)
from isorl.configs.errors import Interrupted, RunStopped, UserError
from isorl.configs.program import name, run_command
from isorl.experiments.grid.sweeper import register
from isorl.experiments.terminal import closed_pipe_is_no_error, show_warnings_as_messages, wrapped

register_resolvers()


def run(composed: DictConfig) -> Any:
    """Does what the composed configuration asks for; a user's mistake ends with one message and exit code 2."""
    try:
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            from isorl.experiments import plugins
            from isorl.experiments.grid import work

            plugins.in_worker(composed)
            return work.job(composed)
        return _dispatch(composed)
    except UserError as error:
        _refuse(error)
    except (RunStopped, Interrupted) as stopped:
        run_dir = composed.resume or composed.run_dir
        saved = "" if stopped.saved_at is None else f" Saved at agent step {stopped.saved_at:,}."
        begun = (Path(run_dir) / "config.yaml").is_file()
        how = f" Continue with:\n  {run_command('resume', run_dir, composed.imports)}" if begun else ""
        print(wrapped(f"{stopped}{saved}{how}"), file=sys.stderr)
        sys.exit(stopped.exit_code)


def _dispatch(composed: DictConfig) -> dict[str, Any] | None:
    from isorl.experiments import terminal
    from isorl.experiments.grid import references, work
    from isorl.experiments.run import experiment, summary

    if composed.play:
        from isorl.experiments.run.play import play

        for file in play(composed.play):
            print(file)
        return None
    if composed.resume:
        run_dir, content = composed.resume, experiment.resume(composed.resume, _cycles(composed))
    else:
        config = references.referred(resolve(composed), composed.reference)
        if composed.dry_run:
            from isorl.experiments.run import dry_run

            dry_run.show(config)
            return None
        run_dir, content = config.run_dir, work.begin(config)
    terminal.console().print(summary.table(content))
    print(f"Diagnostics took {content['diagnostics_share_of_time']:.1%} of {content['seconds']:,.0f} s.")
    if any(Path(run_dir).glob("events.*")):
        print(f"Watch it with: tensorboard --logdir {run_dir}")
    return content


def _cycles(composed: DictConfig) -> int | None:
    """Returns the cycles that the command line gives a run that is resumed; None where it gives none."""
    from isorl.experiments.grid.cell import CELLS

    if not any(word.startswith(f"{GROWS}=") for word in HydraConfig.get().overrides.task):
        return None
    if Path(composed.resume).absolute().parent.parent.name == CELLS:
        raise UserError(
            f"'{composed.resume}' is a cell of a grid, which knows it by its configuration. Copy the folder to "
            f"another place, and resume the copy with {GROWS}={composed.sequence.cycles}."
        )
    return int(composed.sequence.cycles)


def _refuse(error: UserError) -> NoReturn:
    print(wrapped(f"{name('train')}: {error}"), file=sys.stderr)
    sys.exit(2)


def main(words: Sequence[str] | None = None) -> None:
    """Checks what can be checked before anything heavy is imported, then hands over to Hydra.

    Args:
        words: of the command line; None: those of the process.
    """
    try:
        arguments = prepared(list(sys.argv[1:] if words is None else words))
        if named := imports_in(arguments):
            from isorl.experiments import plugins

            plugins.load(named)
        sys.argv[1:] = check_overrides(arguments)
    except UserError as error:
        _refuse(error)
    show_warnings_as_messages()
    register()  # last: composing a configuration makes Hydra forget what was registered
    with closed_pipe_is_no_error():
        hydra.main(version_base=None, config_path="pkg://isorl.configs", config_name="config")(run)()
