"""How far grids are: `python -m agents.grid.list runs/grids/*`, without disturbing them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from agents.grid.grid import Grid
from agents.grid.table import table
from agents.grid.watch import Watch
from configs import UserError


def main(words: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m agents.grid.list", description=__doc__)
    parser.add_argument("grids", nargs="+", type=Path, help="folders with a grid.json")
    for folder in parser.parse_args(words).grids:
        try:
            grid = Grid.load(folder)
        except UserError as error:
            print(f"list: {error}", file=sys.stderr)
            sys.exit(2)
        Console().print(f"[bold]{grid.name}[/bold]  {grid.about}", highlight=False)
        Console().print(table(Watch(grid.cells).look(), rate=float("nan")))


if __name__ == "__main__":
    main()
