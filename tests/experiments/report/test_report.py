"""The page on made-up grids whose outcome is known, on unfinished runs, and on logs of others."""

import csv
import itertools
import json
import math
import re
import shutil

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard.writer import SummaryWriter

from isorl.experiments.grid.cell import State, beside
from isorl.experiments.report import charts, network_sections, result_sections
from isorl.experiments.report.document import Cell, Document, Picture, Section, Table
from isorl.experiments.report.estimates import median
from isorl.experiments.report.find_runs import find_runs
from isorl.experiments.report.prediction import Prediction
from isorl.experiments.report.render import to_html, to_markdown
from isorl.experiments.report.runs import of_methods
from isorl.experiments.report.statistics import Estimate
from isorl.experiments.report.study import Study
from isorl.experiments.report.write_report import main, write_report
from tests.experiments.report.synthetic import write_grid

ARMS = {"keeps": 0.0, "loses": 0.1}


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """Two arms, two sequences, four seeds, six visits: one arm loses a tenth of a fresh agent's gain at every visit."""
    return write_grid(tmp_path_factory.mktemp("grid"), ARMS, sequences=2, seeds=4, visits=6)


@pytest.fixture(scope="module")
def written(grid, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    write_report([grid], out)
    return out


def test_numbers_are_those_that_were_put_in(grid):
    found = find_runs([grid])
    study = Study(found.runs, found.grid.baseline)
    assert (study.arms, len(study.sequences), study.headline) == (["keeps", "loses"], 2, "plasticity_ratio")
    lost = study.matrix("plasticity_ratio", "loses")
    assert lost.shape == (4, 2)
    assert lost == pytest.approx(0.55, abs=0.03)  # the last two of six visits: 0.6 and 0.5
    assert study.matrix("plasticity_trend", "loses") == pytest.approx(-0.1, abs=0.01)
    assert study.differences("plasticity_ratio", "loses") == pytest.approx(-0.45, abs=0.03)


def test_page_is_one_file_that_needs_no_network_and_no_script(written):
    text = (written / "report.html").read_text()
    assert not re.findall(r"<script|<link|<img|@import|url\(http|src=", text)
    assert not re.findall(r'href="(?!#)', text.replace('xlink:href="#', ""))
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    assert text.count("<svg") >= 10
    assert "nan" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL).lower().split()
    assert "loses plasticity" in text


def test_page_says_what_was_lost(written):
    text = (written / "report.md").read_text()
    assert "| loses | -0.10" in text
    for part in (
        "Results",
        "Against keeps",
        "Is plasticity lost?",
        "How it was made",
        "Which diagnostic foretells",
    ):
        assert f"## {part}" in text
    assert "python train.py -m" in text
    assert "Least-squares slope per visit of the seeds' mean ratio to fresh" in text
    assert "Of the network that acts, at the end of each visit; median over seeds." in text
    assert text.index("## Is plasticity lost?") < text.index("## How it was made")


def test_sections_show_which_colour_is_which_arm(written):
    text = (written / "report.html").read_text()
    sections = re.findall(r'<section id="s\d+">(.*?)</section>', text, flags=re.DOTALL)
    titled = {re.search(r"<h2>(.*?)</h2>", section)[1]: section for section in sections}
    for title in ("Results", "The state of the networks"):
        legend = re.search(r'<div class="legend">(.*?)</div>', titled[title])[1]
        assert re.findall(r'--arm(\d)\)"></i>(\w+)<', legend) == [("0", "keeps"), ("1", "loses")]
    assert '<div class="legend">' not in titled["Is plasticity lost?"]
    assert titled["How it was made"].startswith("<details><summary><h2>How it was made</h2></summary>")
    assert titled["Results"].startswith("<h2>Results</h2>")


def test_page_against_another_arm_by_another_metric(grid, tmp_path):
    write_report([grid], tmp_path, baseline="loses", metric="start_performance")
    text = (tmp_path / "report.md").read_text()
    assert "## Against loses" in text
    assert "Differences in start performance" in text
    assert "| keeps | \N{EN DASH} | 0.05" in text  # the first two of six visits: 1 and 1 against 1 and 0.9


def test_numbers_are_written_as_csv(written):
    with (written / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 4 * 3  # two arms and the fresh one
    lost = [float(row["plasticity_ratio"]) for row in rows if row["arm"] == "loses"]
    assert lost == pytest.approx([0.55] * 8, abs=0.03)
    with (written / "visits.csv").open() as file:
        assert sum(1 for _ in csv.DictReader(file)) == 2 * 4 * 4 * 6


def test_report_made_twice_is_the_same(grid, written, tmp_path):
    tmp_path = tmp_path / "a" / "new" / "folder"
    write_report([grid], tmp_path)
    for name in ("report.html", "report.md", "runs.csv"):
        assert (tmp_path / name).read_text() == (written / name).read_text()


def test_predictors_are_shaded_by_their_strength_from_minus_one_to_one():
    def estimate(value):
        return Estimate(value, math.nan, math.nan)

    found = [
        Prediction(estimate(-0.4), estimate(0.2), estimate(0.3), 0.9, 9, 3, 2),
        Prediction(estimate(math.nan), estimate(0.5), estimate(0.1), 0.2, 8, 3, 2),
    ]
    cells = network_sections._prediction_cells(found)
    assert [cell.shade for cell in cells] == [-0.4, None, 0.2, 0.3, pytest.approx(0.8), None, None]
    assert [cell.text for cell in cells[-3:]] == ["0.90", "9", "3"]


@pytest.mark.parametrize(
    ("together", "picture"), [({"loses": 1, "keeps": 1}, True), ({"loses": 10, "keeps": 10}, False),
                              ({"loses": 10, "keeps": 1}, False), ({}, False)], ids=str)  # fmt: skip
def test_time_of_a_shared_process_is_no_runs_own(tmp_path, together, picture):
    """Of runs that share a process each is given the same share: no cost of an arm."""
    grid = write_grid(tmp_path, ARMS, sequences=1, seeds=2, visits=3)
    for path in (tmp_path / "cells").rglob("summary.json"):
        arm = path.parent.name.partition("-")[0]
        path.write_text(json.dumps(json.loads(path.read_text()) | {"together": together.get(arm)}))
    write_report([grid])
    text = (grid / "report.html").read_text()
    assert ("cost against benefit on" in text) == picture
    shared = sum(count != 1 for count in (together or dict.fromkeys(ARMS)).values())
    assert (f"{2 * shared} of 4 runs shared a process" in text) == (shared > 0)
    with (grid / "runs.csv").open() as file:
        for row in csv.DictReader(file):
            assert bool(row["seconds"]) == (together.get(row["arm"]) == 1)


def test_tensorboard_overlays_arms_and_lists_runs(written):
    events = EventAccumulator(str(written / "tensorboard" / "comparison" / "loses"))
    events.Reload()
    ratio = [point.value for point in events.Scalars("sequence_0/ratio")]
    assert ratio == pytest.approx([1, 0.9, 0.8, 0.7, 0.6, 0.5], abs=0.03)
    assert "custom_scalars__config__" in events.Tags()["tensors"]
    run = EventAccumulator(str(written / "tensorboard" / "hparams" / "sequence 1" / "loses" / "seed3"))
    run.Reload()
    assert run.Scalars("result/plasticity_ratio")[0].value == pytest.approx(0.55, abs=0.03)
    arms = {folder.name for folder in (written / "tensorboard" / "hparams" / "sequence 1").iterdir()}
    assert arms == {"keeps", "loses"}, "references are no arms"


def test_an_arm_whose_method_never_acted_is_named(grid, tmp_path):
    shutil.copytree(grid.parent.parent, tmp_path / "copy")
    said = "Method 'redo' does nothing in this run: it first acts at update 1,000, of 512 planned ones."
    cells = tmp_path / "copy" / "cells" / "sequence 0"
    (cells / "loses-sequence 0-0" / "run.log").write_text(
        f"2026-01-01 00:00:00,000 INFO start\n2026-01-01 00:00:00,000 WARNING {said}\n" * 2
    )
    write_report([tmp_path / "copy" / "grids" / grid.name], tmp_path)
    assert (tmp_path / "report.md").read_text().count(f"loses on sequence 0: {said}") == 1


def with_methods(grid, methods):
    """The grid, whose arms have had these methods."""
    for path in grid.parents[1].glob("cells/*/*/summary.json"):
        arm = path.parent.name.partition("-")[0]
        if arm in methods:
            path.write_text(json.dumps(json.loads(path.read_text()) | {"methods": methods[arm]}))
    return grid


def table_rows(markdown, heading):
    """The rows of the first table under a heading, by the text of their first cell."""
    lines = markdown.split(f"## {heading}\n")[1].splitlines()
    table = list(itertools.takewhile(is_row, itertools.dropwhile(lambda line: not is_row(line), lines)))
    head, _, *rows = (
        [cell.strip().replace("**", "") for cell in line.strip("|").split("|")] for line in table
    )
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}


def is_row(line):
    return line.startswith("|")


def test_agnostic_arms_are_ranked_among_themselves_and_idle_methods_are_marked(tmp_path):
    arms = {"told": 0.0, "better": 0.05, "worse": 0.1}
    methods = {
        "told": {"fire": {"boundary": "informed", "acts": True}},
        "better": {},
        "worse": {
            "redo": {"boundary": "agnostic", "acts": False},
            "l2": {"boundary": "agnostic", "acts": True},
        },
    }
    grid = with_methods(write_grid(tmp_path, arms, sequences=1, seeds=3, visits=6), methods)
    write_report([grid])
    text = (grid / "report.md").read_text()
    shown = table_rows(text, "Results")
    worse = "worse redo never acted"
    columns = ("boundary", "rank", "among agnostic")
    assert [shown["told"][c] for c in columns] == ["informed", "1", "\N{EN DASH}"]
    assert [shown["better"][c] for c in columns] == ["agnostic", "2", "1"]
    assert [shown[worse][c] for c in columns] == ["agnostic", "3", "2"]
    assert table_rows(text, "Against told")[worse]["boundary"] == "agnostic"
    for heading in (
        "Is plasticity lost?",
        "Visit by visit, against fresh agents",
        "The state of the networks",
    ):
        assert worse in table_rows(text, heading), heading
    assert "worse (redo never acted)" in text.split("## All metrics")[1]
    with (grid / "runs.csv").open() as file:
        found = {row["arm"]: (row["boundary"], row["never_acted"]) for row in csv.DictReader(file)}
    assert found["told"] == ("informed", "")
    assert found["worse"] == ("agnostic", "redo")


def test_figures_at_a_numerical_cap_are_shown_as_bounds(tmp_path):
    """The condition number of a kernel of 64 rows that single precision cannot resolve is 1 / (64 eps)."""
    grid, cap = write_grid(tmp_path, ARMS, sequences=1, seeds=3, visits=4), 2**23 / 64
    for path in grid.parents[1].glob("cells/*/*/summary.json"):
        content, is_capped = json.loads(path.read_text()), path.parent.name.startswith("loses")
        for row in content["diagnostics"]:
            row["plasticity/ntk_condition/actor"] = cap if is_capped else 100.5
        path.write_text(json.dumps(content))
    write_report([grid])
    shown = table_rows((grid / "report.md").read_text(), "The state of the networks")
    assert shown["loses"]["ntk condition"] == "at least 131,072"
    assert shown["keeps"]["ntk condition"] in ("100", "101")
    assert (
        "condition number of the NTK; \N{BLACK UP-POINTING TRIANGLE}: at least"
        in (grid / "report.html").read_text()
    )


def test_a_median_is_a_bound_where_capped_readings_decide_it():
    cap = 2**23 / 64
    assert median("ntk_condition", [10.5, cap, cap]) == (cap, True)
    assert median("ntk_condition", [10.5, 20.5, cap]) == (20.5, False)
    assert median("ntk_condition", [10.5, cap]) == ((10.5 + cap) / 2, True)
    assert median("dormant_units", [0.5, math.nan, 0.7]) == (pytest.approx(0.6), False)
    assert math.isnan(median("ntk_condition", [math.nan])[0])


def test_an_informed_method_that_never_acted_makes_no_arm_informed():
    idle = {"methods": {"fire": {"boundary": "informed", "acts": False}}}
    assert of_methods(idle) == ("agnostic", ("fire",))
    assert of_methods({}) == ("", ())


def test_unfinished_and_failed_cells_are_shown_as_such(grid, tmp_path):
    shutil.copytree(grid.parent.parent, tmp_path / "copy")
    copy = tmp_path / "copy" / "grids" / grid.name
    cells = tmp_path / "copy" / "cells" / "sequence 0"
    part, failed = cells / "loses-sequence 0-0", cells / "loses-sequence 0-1"
    (part / "summary.json").unlink()
    (part / "config.yaml").touch()
    rows = [
        {"key": f"return/task-{v}", "value": 1 - 0.1 * v, "agent_step": step, "task": f"task-{v}", "visit": v}
        for v in range(3)
        for step in (1000 * v + 100, 1000 * v + 900)
    ]
    (part / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"key": "torn')
    (failed / "summary.json").unlink()
    beside(failed, "failure.json").parent.mkdir()
    beside(failed, "failure.json").write_text(json.dumps({"reason": "out of memory"}))
    runs = find_runs([copy]).runs
    states = [run.state for run in runs]
    assert (states.count(State.STARTED), states.count(State.FAILED)) == (1, 1)
    [begun] = [run for run in runs if run.state is State.STARTED]
    assert begun.online == pytest.approx([1, 0.9, 0.8])
    write_report([copy])
    text = (copy / "report.md").read_text()
    assert "out of memory" in text
    assert "not finished: its last visit may be a part of one" in text


def test_runs_of_others_show_what_can_be_shown(tmp_path, capsys):
    with SummaryWriter(str(tmp_path / "logs" / "PPO_1")) as writer:
        for step in range(0, 1000, 10):
            writer.add_scalar("rollout/ep_rew_mean", step / 100, step)
    main([str(tmp_path / "logs"), "--out", str(tmp_path / "out")])
    text = (tmp_path / "out" / "report.md").read_text()
    assert "PPO_1" in text
    assert "no switches, no references" in text
    assert "No ratios" in text
    assert "report.html" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "value", "nearest"), [("baseline", "keep", "keeps"), ("metric", "auk", "auc")]
)
def test_unknown_arms_and_metrics_are_answered(option, value, nearest, grid, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(grid), f"--{option}", value, "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert f"Did you mean '{nearest}'?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_arms_are_not_ranked_by_what_should_be_low(grid, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(grid), "--metric", "forgetting", "--out", str(tmp_path / "out")])
    assert "--metric cannot be 'forgetting'" in capsys.readouterr().err


MISTAKES = {"nowhere": ("nowhere", "There is no"), "nothing in it": ("", "holds no grid")}


@pytest.mark.parametrize(("path", "expected"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_answered(path, expected, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / path)])
    assert stop.value.code == 2
    assert expected in " ".join(capsys.readouterr().err.split())


def test_texts_are_escaped():
    table = Table(("<a>",), [[Cell("<b>", shade=0.5)]], caption="<c>")
    section = Section("<s>", ["<p>"], [Picture("<svg ></svg>", "<x>")], [table])
    made = Document("<t>", "<u>", [("1", "<v>")], [section], [])
    text = to_html(made)
    for given in ("<a>", "<c>", "<t>", "<u>", "<v>", "<s>", "<x>"):
        assert given not in text
    assert "&lt;b&gt;" in text
    assert "| <b> |" in to_markdown(made)


def test_every_figure_is_a_pdf_and_every_table_latex(grid, tmp_path):
    write_report([grid], tmp_path, paper=True)
    figures, tables = list((tmp_path / "paper").glob("*.pdf")), list((tmp_path / "paper").glob("*.tex"))
    assert len(figures) == (tmp_path / "report.html").read_text().count("<figure")
    assert all(figure.read_bytes().startswith(b"%PDF") for figure in figures)
    assert len(tables) >= 5
    for table in tables:
        text = table.read_text()
        columns = len(re.search(r"\\begin{tabular}{(\w+)}", text)[1])
        body = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert all(len(re.findall(r"(?<!\\)&", line)) == columns - 1 for line in body)
        assert text.count(r"\begin") == text.count(r"\end") == 1
    assert "var(--arm0)" in (tmp_path / "report.html").read_text(), "the page still follows its own colours"


def test_few_seeds_have_their_values_instead_of_an_interval(tmp_path, monkeypatch):
    few, many = (write_grid(tmp_path / str(n), ARMS, sequences=1, seeds=n, visits=4) for n in (3, 5))
    pages, bands = [], []
    monkeypatch.setattr(charts.draw, "band", lambda *arguments: bands.append(folder))
    for folder in (few, many):
        write_report([folder])
    assert set(bands) == {many}
    for folder in (few, many):
        (table,) = re.findall(r"## Results.*?\n## ", (folder / "report.md").read_text(), flags=re.DOTALL)
        pages.append(next(line for line in table.splitlines() if line.startswith("| loses")))
    assert "[" not in pages[0]
    assert re.search(r"\d\.\d\d \d\.\d\d \d\.\d\d \d\.\d\d", pages[0]), "the mean, then the three seeds"
    assert "[" in pages[1]


def test_an_arm_that_did_nothing_is_marked_everywhere(tmp_path):
    folder = write_grid(tmp_path, ARMS, sequences=2, seeds=2, visits=4)
    for source in (tmp_path / "cells" / "sequence 0").glob(
        "keeps-*"
    ):  # on one sequence "loses" gives the same returns
        twin = source.with_name(source.name.replace("keeps", "loses"))
        shutil.copy(source / "summary.json", twin / "summary.json")
    write_report([folder])
    text = (folder / "report.md").read_text()
    assert "† 'loses' on 'sequence 0' equals 'keeps' digit for digit" in text
    first, second = (
        part.split("*sequence")[0] for part in text.split("## Results")[1].split("| seeds |")[1:3]
    )
    assert "loses †" in first
    assert "loses †" not in second
    assert "loses †" in text.split("## Against keeps")[1]


def test_all_arms_are_drawn_over_each_other_and_named(written):
    text = (written / "report.html").read_text()
    overlays = re.findall(
        r"<figure[^>]*><figcaption>[^<]*all arms</figcaption>.*?</figure>", text, flags=re.DOTALL
    )
    assert len(overlays) == 2
    for figure in overlays:
        assert {f"var(--arm{n})" for n in range(2)} <= set(re.findall(r"var\(--arm\d+\)", figure))
        assert ">keeps<" in figure
        assert ">loses<" in figure


def test_nothing_that_is_drawn_lies_outside_the_axes(grid):
    study = Study(find_runs([grid]).runs)
    low, high = charts._common_limits(study, study.sequences[0])
    for arm in study.arms:
        for run in study.of(study.sequences[0], arm):
            assert low < run.curve.min() <= run.curve.max() < high


def test_decisions_of_the_control_loop_are_shown(tmp_path):
    folder = write_grid(tmp_path, ARMS, sequences=1, seeds=2, visits=4)
    assert "control loop" not in (write_report([folder])[1]).read_text()
    for cell in (tmp_path / "cells" / "sequence 0").glob("loses-*"):
        rows = [{"key": "method/adaptive_isometry/strength/gram", "value": value, "agent_step": 100 * n, "task": "t",
                 "visit": 0} for n, value in enumerate([0.1, 0.2, 0.2, 0.4, 0.2])]  # fmt: skip
        (cell / "config.yaml").write_text("method:\n  adaptive_isometry:\n    every: 200\n")
        (cell / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = (write_report([folder])[1]).read_text()
    assert "| sequence 0: loses | gram | 2 | 10 | 4 | 2 | 0.10 | 0.40 | 0.20 |" in text
    assert "strength over the run, loses on sequence 0" in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((-2.0, -1.0), "loses plasticity"), ((1.0, 2.0), "gains on fresh agents"), ((-1.0, 1.0), "no trend beyond chance"),
     ((0.0, 1.0), "no trend beyond chance"), ((-1.0, 0.0), "no trend beyond chance")],
)  # fmt: skip
def test_a_trend_is_named_where_its_interval_leaves_out_zero(interval, verdict):
    assert result_sections._verdict(*interval) == verdict


@pytest.mark.parametrize("commits", [("a1", "a1"), ("a1", "b2")])
def test_cells_of_several_commits_are_warned_of(tmp_path, commits):
    folder = write_grid(tmp_path, ARMS, sequences=1, seeds=2, visits=4)
    for number, cell in enumerate(sorted((tmp_path / "cells" / "sequence 0").iterdir())):
        (cell / "run.json").write_text(json.dumps({"commit": commits[number % 2], "machine": "one"}))
    write_report([folder])
    text = (folder / "report.md").read_text()
    assert ("Cells were made by several commits" in text) == (len(set(commits)) > 1)


def test_a_ratio_that_divides_by_next_to_nothing_is_warned_of(tmp_path, capsys):
    grid = write_grid(tmp_path, {"keeps": 0.0}, sequences=2, seeds=3, visits=3)
    for folder in tmp_path.glob("cells/sequence 0/fresh-*"):
        content = json.loads((folder / "summary.json").read_text())
        for row in content["returns"]:
            row["mean"] = 0.001
        (folder / "summary.json").write_text(json.dumps(content))
    main([str(grid), "--out", str(tmp_path / "out")])
    page, said = (tmp_path / "out" / "report.md").read_text(), " ".join(capsys.readouterr().err.split())
    for text in (page, said):
        assert "Ratios to fresh agents say little" in text
        assert "'keeps' on 'sequence 0'" in text
        assert "'sequence 1'" not in text.partition("say little")[2].partition("Rank by returns")[0]
