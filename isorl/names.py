"""`isorl list [KIND]`: the names of a kind with a line about each, also of the user's own modules and folders.

isorl list methods
isorl list sequences --config-dir DIR
isorl list metrics imports=[./my_metrics.py]
isorl list grids                     those in ./runs, a line each
isorl list grids runs/grids/NAME     how far every arm of one is
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from isorl.configs import UserError, nearest
from isorl.configs.command_line import flags_and_words, groups, imports_in, roots, use_flags
from isorl.experiments.terminal import closed_pipe_is_no_error, console, wrapped

GROUPS = ("agent", "benchmark", "head", "method", "network", "optimizer", "sequence")
KINDS = (*(f"{group}s" for group in GROUPS), "metrics", "grids")
WIDTH = shutil.get_terminal_size((200, 24)).columns


def main(words: Sequence[str] | None = None) -> None:
    """Runs the command; a user's mistake ends with one message and exit code 2."""
    words = list(sys.argv[1:] if words is None else words)
    if "--help" in words or "-h" in words:
        print(__doc__)
        return
    try:
        with closed_pipe_is_no_error():
            for line in _lines(words):
                print(line)
    except UserError as error:
        print(wrapped(f"isorl list: {error}"), file=sys.stderr)
        sys.exit(2)


def _lines(words: list[str]) -> list[str]:
    kind, *rest = words if words and not words[0].startswith("-") and "=" not in words[0] else ["", *words]
    if kind and kind not in KINDS:
        raise UserError(f"There is no list of '{kind}'. {nearest(kind, KINDS)}")
    paths = [word for word in rest if "=" not in word and not word.startswith("-")] if kind == "grids" else []
    flags, overrides = flags_and_words([word for word in rest if word not in paths])
    use_flags(flags)
    if named := imports_in(overrides):
        from isorl.experiments import plugins

        plugins.load(named)
    if kind == "grids":
        return _progress([Path(path) for path in paths]) if paths else _grids()
    if kind:
        return _table(metrics() if kind == "metrics" else entries(kind.removesuffix("s")))
    return [*(f"isorl list {group}s: {', '.join(_few(groups()[group]))}" for group in GROUPS), *_OTHERS]


_OTHERS = (
    "isorl list metrics: what is measured of a network",
    "isorl list grids: how far those in ./runs are",
)


def _few(names: list[str], shown: int = 5) -> list[str]:
    return names if len(names) <= shown else [*names[:shown], f"... ({len(names)})"]


def entries(group: str) -> dict[str, str]:
    """Returns the names of a configuration group with the first sentence about each."""
    found = {}
    for name in groups()[group]:
        files = [file for root in roots() if (file := root / group / f"{name}.yaml").is_file()]
        found[name] = _first_sentence(files[0].read_text()) if files else _registered(group, name)
    return found


def _registered(group: str, name: str) -> str:
    from isorl.experiments import plugins

    return plugins.about(group, name)


def metrics() -> dict[str, str]:
    """Returns the names of all metrics with their formulas."""
    from isorl.plasticity.diagnostics import METRICS

    return {name: metric.formula for name, metric in METRICS.items()}


def _first_sentence(yaml: str) -> str:
    """Returns that of the comment at the head of a YAML file."""
    head = []
    for line in yaml.splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            head.append(line.removeprefix("#").strip())
    return re.split(r"(?<=[^\d.][.])\s+(?=[A-Z])|(?<=\w):(?=\s{2})", " ".join(head), maxsplit=1)[0]


def _table(rows: dict[str, str]) -> list[str]:
    width = max(map(len, rows), default=0)
    return [f"{name:<{width}}  {_cut(text, WIDTH - width - 2)}" for name, text in rows.items()]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3].rstrip()}..."


def _progress(folders: list[Path]) -> list[str]:
    """Prints how far every sequence and arm of these grids is, without disturbing them."""
    from rich.text import Text

    from isorl.experiments.grid.grid import Grid
    from isorl.experiments.grid.progress_table import table
    from isorl.experiments.grid.watch import Watch

    for grid in map(Grid.load, folders):
        console().print(Text.assemble((grid.name, "bold"), f"  {grid.about}"))
        console().print(table(Watch(grid.cells).look(), rate=float("nan")))
    return []


def _grids() -> list[str]:
    """Returns a line for each grid of ./runs: name, finished cells, what it is about."""
    from isorl.experiments.grid.cell import State
    from isorl.experiments.grid.grid import Grid

    found = sorted(file.parent for file in Path("runs/grids").glob("*/grid.json"))
    if not found:
        raise UserError("There are no grids in ./runs/grids. Name others: isorl list grids FOLDER ...")
    rows = {}
    for folder in found:
        grid = Grid.load(folder)
        finished = sum(cell.state() is State.FINISHED for cell in grid.cells)
        rows[str(folder)] = f"{finished} of {len(grid.cells)} cells finished; {grid.about}"
    return _table(rows)
