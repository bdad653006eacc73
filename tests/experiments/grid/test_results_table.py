"""The table with which a grid ends, on summaries written by hand."""

import io
import json

from isorl.experiments import terminal
from isorl.experiments.grid import results_table
from isorl.experiments.grid.cell import Cell


def cell(folder, arm, seed, means):
    """A cell whose visits had these mean returns; None: it has not finished."""
    made = Cell(f"{arm}{seed}", folder / f"{arm}{seed}", (), "catch", arm, seed, 100)
    made.folder.mkdir()
    if means is not None:
        rows = [{"mean": mean} for mean in means]
        (made.folder / "summary.json").write_text(json.dumps({"returns": rows}))
    return made


def lines(cells):
    console = terminal.console(file=io.StringIO())
    console.width = 120
    console.print(results_table.table(cells))
    return [line for line in console.file.getvalue().splitlines() if "catch" in line or "more" in line]


def test_the_best_arm_comes_first_and_what_is_unfinished_is_left_out(tmp_path):
    cells = [
        cell(tmp_path, "adam", 0, [1.0, 3.0]),
        cell(tmp_path, "adam", 1, [2.0, 5.0]),
        cell(tmp_path, "method=[redo]", 0, [7.0, 9.0]),
        cell(tmp_path, "method=[redo]", 1, None),
        cell(tmp_path, "silent", 0, [None, 1.0]),
    ]
    first, second, third = lines(cells)
    assert [word.strip() for word in first.strip("│").split("│")] == [
        "catch",
        "method=[redo]",
        "",
        "1",
        "8",
        "",
        "9",
    ]
    assert [word.strip() for word in second.strip("│").split("│")] == [
        "catch", "adam", "", "2", "2.75", "2 to 3.5", "4",
    ]  # fmt: skip
    assert "nan" in third
    columns = results_table.table(cells).columns
    assert [column.justify for column in columns] == [*["left"] * 3, *["right"] * 4], (
        "numbers stand under numbers"
    )


def test_boundary_and_methods_that_never_acted_are_shown(tmp_path):
    made = cell(tmp_path, "redo", 0, [1.0])
    content = json.loads((made.folder / "summary.json").read_text())
    methods = {"redo": {"boundary": "agnostic", "acts": False}}
    (made.folder / "summary.json").write_text(json.dumps(content | {"methods": methods}))
    (line,) = lines([made])
    assert [word.strip() for word in line.strip("│").split("│")][1:4] == [
        "redo (redo never acted)", "agnostic", "1",
    ]  # fmt: skip


def test_a_large_grid_is_cut(tmp_path):
    cells = [cell(tmp_path, f"arm{i:02}", 0, [float(i)]) for i in range(results_table.MAX_ROWS + 5)]
    assert "and 5 more" in lines(cells)[-1]
