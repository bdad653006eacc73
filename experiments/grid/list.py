"""Shows how far grids are, without disturbing them: `python -m isorl.experiments.grid.list runs/grids/*`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from isorl.configs import UserError
from isorl.experiments.grid.grid import Grid
from isorl.experiments.grid.progress_table import table
from isorl.experiments.grid.watch import Watch


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command with `arguments` (default: those of the process)."""
    parser = argparse.ArgumentParser(prog="python -m isorl.experiments.grid.list", description=__doc__)
    parser.add_argument("grids", nargs="+", type=Path, help="folders with a grid.json")
    for folder in parser.parse_args(arguments).grids:
        try:
            grid = Grid.load(folder)
        except UserError as error:
            print(f"list: {error}", file=sys.stderr)
            sys.exit(2)
        Console().print(f"[bold]{grid.name}[/bold]  {grid.about}", highlight=False)
        Console().print(table(Watch(grid.cells).look(), rate=float("nan")))


if __name__ == "__main__":
    main()
