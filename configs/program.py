"""How this process was started, so that messages name what its user can type again."""

from __future__ import annotations

import sys
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


def run_command(what: str, run_dir: object) -> str:
    """Returns the command that does `what` (resume or play) with a run: `isorl resume RUN_DIR`, ..."""
    train = command("train")
    return f"{train} {what}={run_dir}" if train.startswith("python") else f"isorl {what} {run_dir}"
