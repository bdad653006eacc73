"""The command line: `python train.py --help`."""

from __future__ import annotations

import sys
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from isorl.configs.command_line import check_overrides, register_resolvers, resolve
from isorl.configs.errors import Interrupted, RunStopped, UserError
from isorl.experiments.grid.sweeper import register
from isorl.experiments.terminal import closed_pipe_is_no_error, wrapped

register_resolvers()


@hydra.main(version_base=None, config_path="pkg://isorl.configs", config_name="config")
def run(composed: DictConfig) -> Any:
    """Does what the composed configuration asks for; a user's mistake ends with one message and exit code 2."""
    try:
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            from isorl.experiments.grid import work

            return work.job(composed)
        return _dispatch(composed)
    except UserError as error:
        _refuse(error)
    except (RunStopped, Interrupted) as stopped:
        run_dir = composed.resume or composed.run_dir
        saved = "" if stopped.saved_at is None else f" Saved at agent step {stopped.saved_at:,}."
        print(
            wrapped(f"{stopped}{saved} Continue with:\n  python train.py resume={run_dir}"), file=sys.stderr
        )
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
        run_dir, content = composed.resume, experiment.resume(composed.resume)
    else:
        config = references.referred(resolve(composed), composed.reference)
        if composed.dry_run:
            from isorl.experiments.run import dry_run

            dry_run.show(config)
            return None
        run_dir, content = config.run_dir, work.begin(config)
    terminal.console().print(summary.table(content))
    print(f"Diagnostics took {content['diagnostics_share_of_time']:.1%} of {content['seconds']:,.0f} s.")
    print(f"Watch it with: tensorboard --logdir {run_dir}")
    return content


def _refuse(error: UserError) -> None:
    print(wrapped(f"train.py: {error}"), file=sys.stderr)
    sys.exit(2)


def main() -> None:
    """Checks what can be checked before anything heavy is imported, then hands over to Hydra."""
    try:
        sys.argv[1:] = check_overrides(sys.argv[1:])
    except UserError as error:
        _refuse(error)
    register()  # last: composing a configuration makes Hydra forget what was registered
    with closed_pipe_is_no_error():
        run()


if __name__ == "__main__":
    main()
