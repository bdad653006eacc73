"""Shows a grid while it runs: how far every sequence and arm is, and for the whole its rate, time left and failures."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from isorl.experiments import terminal
from isorl.experiments.grid.cell import State
from isorl.experiments.grid.watch import NOTHING, Progress, Watch

LOOK_SECONDS = 2.0
"""Seconds between two looks at the folders."""
PLAIN_SECONDS = 60.0
"""Seconds between two lines where there is no terminal."""
MAX_ROWS = 40
"""Rows of the table; a larger grid shows those that are not finished first."""


def table(rows: dict[tuple[str, str], Progress], rate: float) -> Table:
    """Returns a table with one row per sequence and arm, the whole as the last."""
    whole = sum(rows.values(), NOTHING)
    result = Table()
    for title in ("sequence", "arm", "cells", "failed"):
        result.add_column(title, justify="right" if title in ("cells", "failed") else "left")
    result.add_column()
    result.add_column()
    order = sorted(rows.items(), key=lambda item: item[1].share == 1.0)[:MAX_ROWS]
    for (sequence, arm), row in order:
        result.add_row(sequence, arm, *_cells_of(row), bar(row), f"{row.share:.0%}")
    if len(rows) > MAX_ROWS:
        result.add_row("", f"... and {len(rows) - MAX_ROWS} more")
    result.add_section()
    result.add_row("", "all", *_cells_of(whole), bar(whole), line(whole, rate))
    return result


def bar(row: Progress) -> ProgressBar:
    """Returns a bar that shows the share of the agent steps."""
    return ProgressBar(total=max(row.total, 1), completed=row.steps, width=24)


def _cells_of(row: Progress) -> tuple[str, Text]:
    failed = row.states[State.FAILED]
    return f"{row.states[State.FINISHED]} / {row.cells}", Text(str(failed) if failed else "", style="red")


def line(whole: Progress, rate: float) -> str:
    """Returns the grid in one line: share, rate, time left, failures."""
    parts = [f"{whole.share:.0%}"]
    if rate == rate and rate > 0:
        parts += [
            f"{rate:,.0f} agent steps/s",
            f"{terminal.duration((whole.total - whole.steps) / rate)} left",
        ]
    failed = whole.states[State.FAILED]
    return ", ".join([*parts, f"{failed} failed"] if failed else parts)


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Shows the table and keeps it up to date inside; where there is no terminal, prints a line now and then."""
    console = terminal.console(
        file=sys.__stderr__
    )  # a cell that runs in this process has sys.stderr redirected
    over = threading.Event()
    follow = _live if console.is_terminal else _plain
    thread = threading.Thread(target=follow, args=(watch, console, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _live(watch: Watch, console: Console, over: threading.Event) -> None:
    with Live(table(watch.look(), watch.rate), console=console, refresh_per_second=1) as live:
        while not over.wait(LOOK_SECONDS):
            live.update(table(watch.look(), watch.rate))
        live.update(table(watch.look(), watch.rate), refresh=True)


def _plain(watch: Watch, console: Console, over: threading.Event) -> None:
    watch.look()
    while not over.wait(PLAIN_SECONDS):
        whole = sum(watch.look().values(), NOTHING)
        finished = f"{whole.states[State.FINISHED]} of {whole.cells} cells finished"
        console.print(f"{finished}; {line(whole, watch.rate)}", soft_wrap=True)


def states(rows: dict[tuple[str, str], Progress]) -> Counter[State]:
    """Counts how many cells are in which state."""
    return sum(rows.values(), NOTHING).states
