"""The command `isorl`: train, resume, play, report, inspect, list; `isorl COMMAND --help` explains each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from isorl import __version__
from isorl.configs import UserError, imports, nearest
from isorl.configs.command_line import imports_in
from isorl.configs.program import name
from isorl.experiments.terminal import wrapped

EXPLAINED = f"""isorl {__version__}: plasticity in continual reinforcement learning.

  isorl train KEY=VALUE ...       a run; with -m a grid of runs or a benchmark
  isorl resume RUN_DIR            continues a run that stopped
  isorl play RUN_DIR              videos of a trained agent on each task
  isorl report RUNS ...           one page about runs, grids or TensorBoard logs
  isorl inspect RUN_DIR | FILE    the plasticity of an agent's networks as they are now
  isorl list [KIND]               methods, sequences, networks, ... by name

Each takes imports=[my_package.my_module,./my_file.py]: modules of your own that register environments, methods, ...
Runs go to ./runs. `isorl COMMAND --help` explains a command."""


def main(words: Sequence[str] | None = None) -> None:
    """Runs the command that `words` (default: those of the process) name; a user's mistake ends with exit code 2."""
    command, *rest = list(sys.argv[1:] if words is None else words) or ["--help"]
    if command in ("--help", "-h"):
        print(EXPLAINED)
    elif command == "--version":
        print(__version__)
    elif command in COMMANDS:
        sys.argv = [f"isorl {command}", *rest]  # of which messages and run.json tell
        COMMANDS[command](rest)
    else:
        print(
            wrapped(f"isorl: there is no command '{command}'. {nearest(command, COMMANDS)}"), file=sys.stderr
        )
        sys.exit(2)


def _train(words: list[str]) -> None:
    from isorl.train import main

    main(words)


def _of_run(what: str) -> Callable[[list[str]], None]:
    """Returns the command that does `what` with the run that its first word names."""

    def command(words: list[str]) -> None:
        if not words or words[0].startswith(("-", "imports=")):
            print(f"isorl {what} RUN_DIR [imports=[...]]: {WITH_RUN[what]}")
            sys.exit(0 if words and words[0] in ("--help", "-h") else 2)
        _train([f"{what}={words[0]}", *words[1:]])

    return command


WITH_RUN = {"resume": "continues the run in RUN_DIR from its newest checkpoint; sequence.cycles=N\n"
                      "plans more cycles for it, also where it is finished.",
            "play": "records a video of the agent in RUN_DIR on each of its tasks."}  # fmt: skip


def _report(words: list[str]) -> None:
    from isorl.experiments.report.write_report import main

    main(_taken("report", words))


def _inspect(words: list[str]) -> None:
    from isorl.experiments.run.inspect import main

    main(_taken("inspect", words))


def _list(words: list[str]) -> None:
    from isorl.names import main

    main(words)


def _taken(command: str, words: list[str]) -> list[str]:
    """Returns the words without `imports=[...]`, whose modules are imported."""
    try:
        imports.take(imports_in(words))
    except UserError as error:
        print(wrapped(f"{name(command)}: {error}"), file=sys.stderr)
        sys.exit(2)
    return [word for word in words if not word.startswith("imports=")]


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": _train,
    "resume": _of_run("resume"),
    "play": _of_run("play"),
    "report": _report,
    "inspect": _inspect,
    "list": _list,
}
