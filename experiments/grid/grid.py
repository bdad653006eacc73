"""Reads and writes grid.json, which says which cells a grid has; how far they are stands in their folders."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from isorl.configs import UserError
from isorl.experiments.grid.cell import Cell
from isorl.experiments.run.folder import write_json
from isorl.experiments.terminal import explain

FILE = "grid.json"


@dataclass(frozen=True)
class Grid:
    """Holds the cells of a grid, and what its report must know.

    Attributes:
        about: one sentence.
        command: as it was typed.
        baseline: the arm with which others are compared.
        tuned: file of chosen settings, and what it cost; empty where the settings are untuned.
    """

    name: str
    cells: Sequence[Cell]
    command: str = ""
    about: str = ""
    baseline: str = ""
    tuned: dict[str, Any] = field(default_factory=dict)

    def save(self, root: Path) -> Path:
        """Writes grids/NAME/grid.json under `root`; returns its folder."""
        folder = root / "grids" / self.name
        folder.mkdir(parents=True, exist_ok=True)
        content = asdict(self) | {"written": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        content["cells"] = [
            {**asdict(cell), "folder": os.path.relpath(cell.folder, folder.absolute())} for cell in self.cells
        ]
        write_json(folder / FILE, content)
        return folder

    @classmethod
    def load(cls, folder: Path) -> Grid:
        """Reads the grid in `folder`.

        Raises:
            UserError: there is none, or one of another version.
        """
        try:
            return cls._of(json.loads((folder / FILE).read_text()), folder)
        except FileNotFoundError:
            raise UserError(f"'{folder}' is not the folder of a grid (it has no {FILE}).") from None
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"'{folder / FILE}' is damaged or of another version ({type(error).__name__}: {explain(error)}). Give "
                "the command of the grid again: it writes the file anew, and skips what is finished."
            ) from None

    @classmethod
    def _of(cls, content: dict[str, Any], folder: Path) -> Grid:
        cells = [
            Cell(
                **{
                    **row,
                    "folder": Path(os.path.normpath(folder / row["folder"])),
                    "overrides": tuple(row["overrides"]),
                }
            )
            for row in content.pop("cells")
        ]
        content.pop("written")
        return cls(cells=cells, **content)
