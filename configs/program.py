"""How this process was started, so that messages name what its user can type again."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

SCRIPTS = ("train", "report")
"""Commands that a checkout also has as a file at its top."""


def command(what: str) -> str:
    """Returns the beginning of a command line: `isorl WHAT`, or `python WHAT.py` where such a file was started."""
    from_checkout = Path(sys.argv[0]).name in [f"{script}.py" for script in SCRIPTS]
    return f"python {what}.py" if from_checkout and what in SCRIPTS else f"isorl {what}"


def name(what: str) -> str:
    """Returns the name with which messages begin: the command that was typed, `isorl resume`, or `train.py`."""
    return sys.argv[0] if sys.argv[0].startswith("isorl ") else command(what).removeprefix("python ")


def run_command(what: str, run_dir: object, imports: Sequence[str] = ()) -> str:
    """Returns the command that does `what` (resume or play) with a run: `isorl resume RUN_DIR`, ...

    Args:
        what: resume or play.
        run_dir: of the run.
        imports: what it was given to import; files must be named again.
    """
    train = command("train")
    again = f"{train} {what}={run_dir}" if train.startswith("python") else f"isorl {what} {run_dir}"
    files = ",".join(entry for entry in imports if entry.endswith(".py"))
    return f"{again} {shlex.quote(f'imports=[{files}]')}" if files else again
