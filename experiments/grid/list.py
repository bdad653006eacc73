"""Shows how far grids are, without disturbing them: `python -m isorl.experiments.grid.list runs/grids/*`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from isorl.configs import UserError
from isorl.experiments import terminal
from isorl.experiments.grid.grid import Grid
from isorl.experiments.grid.progress_table import table
from isorl.experiments.grid.watch import Watch


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command with `arguments` (default: those of the process)."""
    parser = argparse.ArgumentParser(prog="python -m isorl.experiments.grid.list", description=__doc__)
    parser.add_argument("grids", nargs="+", type=Path, help="folders with a grid.json")
    folders = parser.parse_args(arguments).grids
    try:
        with terminal.closed_pipe_is_no_error():
            for grid in map(Grid.load, folders):
                terminal.console().print(Text.assemble((grid.name, "bold"), f"  {grid.about}"))
                terminal.console().print(table(Watch(grid.cells).look(), rate=float("nan")))
    except UserError as error:
        terminal.say(f"list: {error}")
        sys.exit(2)


if __name__ == "__main__":
    main()
