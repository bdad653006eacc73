"""Reads from the folders of its cells how far a grid is: nothing is asked of the workers, wherever they are."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from isorl.experiments.grid.cell import Cell, State


@dataclass(frozen=True)
class Progress:
    """Says how far some cells of a grid are."""

    cells: int
    states: Counter[State]
    steps: int
    """Agent steps made."""
    total: int
    """Agent steps planned."""

    @property
    def share(self) -> float:
        """The share of the planned agent steps that are made, 0 to 1."""
        return self.steps / self.total if self.total else 1.0

    def __add__(self, other: Progress) -> Progress:
        return Progress(
            self.cells + other.cells,
            self.states + other.states,
            self.steps + other.steps,
            self.total + other.total,
        )


NOTHING = Progress(0, Counter(), 0, 0)


@dataclass
class Watch:
    """Looks at the cells again and again; a finished one is not looked at twice.

    Attributes:
        rate: agent steps per second over the looks so far, NaN before the second.
    """

    cells: Sequence[Cell]
    rate: float = float("nan")
    _finished: set[str] = field(default_factory=set)
    _first: tuple[float, int] | None = None  # time, steps

    def look(self) -> dict[tuple[str, str], Progress]:
        """Returns the progress by (sequence, arm)."""
        rows: dict[tuple[str, str], Progress] = {}
        for cell in self.cells:
            key = (cell.sequence, cell.arm)
            rows[key] = rows.get(key, NOTHING) + self._look_at(cell)
        self._measure(sum(row.steps for row in rows.values()))
        return rows

    def _look_at(self, cell: Cell) -> Progress:
        state = State.FINISHED if cell.id in self._finished else cell.state()
        if state is State.FINISHED:
            self._finished.add(cell.id)
        steps = {State.FINISHED: cell.agent_steps, State.WAITING: 0}.get(state)
        steps = cell.steps_done() if steps is None else steps
        return Progress(1, Counter({state: 1}), steps, cell.agent_steps)

    def _measure(self, steps: int) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = (now, steps)
        elif now > self._first[0]:
            self.rate = (steps - self._first[1]) / (now - self._first[0])
