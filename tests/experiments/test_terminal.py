"""What is printed: names are data, messages fit, a closed pipe is no error."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from isorl.experiments import terminal
from isorl.experiments.grid import progress_table, results_table
from isorl.experiments.grid.cell import Cell
from isorl.experiments.grid.cost import Job, table
from isorl.experiments.grid.watch import Watch
from isorl.experiments.run import summary

ROOT = Path(__file__).parents[2]
NAMES = ["g[/x]", "[bold]a", ":smile:", "[link=x]y[/link]"]


def printed(what):
    console = terminal.console(file=io.StringIO())
    console.width = 160
    console.print(what)
    return console.file.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_names_are_printed_as_they_are(name, tmp_path):
    cell = Cell("x", tmp_path, (), name, name, 0, 100)
    row = {"visit": 0, "task": name, "episodes": 1, "mean": 1.0, "end": 1.0}
    (tmp_path / "summary.json").write_text('{"returns": [{"mean": 1.0}]}')
    shown = Table(title=name)
    shown.add_column(name)
    tables = {
        "any": shown,
        "a run's end": summary.table({"sequence": name, "returns": [row], "diagnostics": []}),
        "a grid's end": results_table.table([cell]),
        "progress": progress_table.table(Watch([cell]).look(), 1.0),
        "cost": table(name, [Job([cell], 1.0)]),
        "a sentence": f"about {name}",
    }
    for where, one in tables.items():
        assert name in printed(one), where


@pytest.mark.parametrize("name", NAMES)
def test_warnings_say_names_as_they_are(name, capsys):
    terminal.say(f"Task {name} ...", style="yellow")
    assert name in capsys.readouterr().err


def test_numbers_in_a_text_get_no_colours_of_their_own(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    console = terminal.console(file=io.StringIO())
    console.print("3 of 4 cells in '/tmp/runs'")
    assert console.file.getvalue() == "3 of 4 cells in '/tmp/runs'\n"


def test_messages_fit_and_commands_stay_whole():
    command = "  python train.py " + "resume=/a/long/path/to/somewhere " * 4
    path = "/" + "x" * 90
    text = terminal.wrapped(f"{'word ' * 40}{path}\n{command}")
    *lines, last = text.splitlines()
    assert last == command
    assert path in lines
    assert all(len(line) <= 80 for line in lines if line != path)
    assert " ".join(text.split()) == " ".join(f"{'word ' * 40}{path} {command}".split())


@pytest.mark.parametrize(("error", "said"), [(NotImplementedError(), "NotImplementedError"), (ValueError("a\nb"), "a"),
                                             (OSError("\n"), "OSError")], ids=repr)  # fmt: skip
def test_no_error_is_explained_by_nothing(error, said):
    assert terminal.explain(error) == said


COMMANDS = {
    "train": ["train.py", "--help"],
    "report": ["report.py", "GRID"],
    "list": ["-m", "isorl", "list", "grids", "GRID"],
    "list metrics": ["-m", "isorl", "list", "metrics"],
    "keys": ["-m", "isorl.experiments.run.keys"],
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_reader_may_stop_reading(words, tmp_path):
    from tests.experiments.report.synthetic import write_grid

    grid = write_grid(tmp_path, {"keeps": 0.0}, sequences=1, seeds=1, visits=3)
    words = [str(grid) if word == "GRID" else word for word in words]
    process = subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    said = process.stderr.read().decode()
    process.stderr.close()
    process.wait()
    assert "BrokenPipe" not in said
    assert "Traceback" not in said


def test_the_table_of_a_run_says_what_it_shows():
    title = summary.table({"sequence": "catch", "returns": [], "diagnostics": []}).title
    assert title == "catch: raw return of training episodes, by visit"
