"""Runs the command behind report.py: finds runs, measures them, writes HTML, Markdown, CSV and TensorBoard files."""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from isorl.configs import UserError, nearest, program
from isorl.experiments.grid.cell import State
from isorl.experiments.report import (
    decisions,
    draw,
    network_sections,
    provenance_sections,
    render,
    result_sections,
    write_tensorboard,
)
from isorl.experiments.report.continual_metrics import METRICS
from isorl.experiments.report.document import Document, Section, to_csv
from isorl.experiments.report.find_runs import Found, find_runs
from isorl.experiments.report.formatting import format_count
from isorl.experiments.report.study import Study
from isorl.experiments.terminal import closed_pipe_is_no_error, duration, say

EXPLAINED = """Writes one page about runs: report.html (no network needed), report.md, runs.csv, visits.csv.

  isorl report runs/grids/control_quick         a grid, finished or not
  isorl report runs/grids/control_quick --baseline AdamO --metric final_performance --out DIR
                                                every arm against another one, by another metric
  isorl report runs/grids/control_quick --paper figures as PDF and tables as LaTeX, too
  isorl report RUN_DIR RUN_DIR ...              single runs
  isorl report runs                             everything below a folder
  isorl report ~/sb3_logs                       TensorBoard logs of any stable-baselines3 run"""


def compose(study: Study, found: Found) -> Document:
    """Returns everything that the runs show, in the order in which it is read."""
    grid = found.grid
    parts = [
        Section("Warnings", [*found.warnings, *result_sections.unsteady(study)]),
        result_sections.results(study),
        result_sections.comparison(study),
        result_sections.trends(study),
        result_sections.learning(study),
        result_sections.visits(study),
        network_sections.networks(study),
        network_sections.ridge_plots(study),
        network_sections.prediction(study),
        decisions.decisions(study),
        network_sections.cost(study),
        provenance_sections.unfinished(study),
        provenance_sections.all_metrics(study),
        Section("How runs were told apart", found.notes),
        provenance_sections.provenance(study, grid),
    ]
    shown = [part for part in parts if part is not None and (part.texts or part.tables or part.pictures)]
    return Document(
        grid.name if grid else "Runs", grid.about if grid else "", facts(study), shown, study.arms
    )


def facts(study: Study) -> list[tuple[str, str]]:
    """Returns figures for the head of the page."""
    states = Counter(run.state for run in study.runs)
    steps = sum(run.agent_steps for run in study.runs if run.kind != "random")
    spent, unit = duration(float(np.nansum([run.seconds for run in study.runs]))).split()
    seeds = {run.seed for run in study.runs}
    found = [
        (str(len(study.arms)), "arms"),
        (str(len(study.sequences)), "sequences"),
        (str(len(seeds)), "seeds"),
        (f"{states[State.FINISHED]:,} of {len(study.runs):,}", "cells finished"),
        (format_count(steps), "agent steps"),
        (spent, f"{unit} of training"),
    ]
    return [*found, (str(states[State.FAILED]), "failed")] if states[State.FAILED] else found


def runs_csv(study: Study) -> str:
    """Returns CSV with one line per finished run: every metric; `seconds` only where the run had its own process."""
    head = ("sequence", "arm", "seed", "kind", "id", "boundary", "never_acted", "agent_steps", "runs_in_process",
            "seconds", *METRICS)  # fmt: skip
    known = study.values
    rows = [
        (run.sequence, run.arm, run.seed, run.kind, run.id, run.boundary, " ".join(run.idle), run.agent_steps,
         run.runs_in_process, "" if np.isnan(run.own_seconds) else run.own_seconds,
         *(known[key][run.id] for key in METRICS))
        for run in study.runs
        if run.id in next(iter(known.values()))
    ]  # fmt: skip
    return to_csv(head, rows)


def visits_csv(study: Study) -> str:
    """Returns CSV with one line per run and visit: return, ratio to fresh, diagnostics."""
    diagnostics = sorted({key for run in study.runs for key in run.diagnostics})
    head = ("sequence", "arm", "seed", "kind", "visit", "task", "start", "mean", "end", "ratio", *diagnostics)
    rows = []
    for run in study.runs:
        ratios = study.ratios(run)
        for visit in range(run.visits):
            measured = [run.diagnostics[key][visit] if _has(run, key, visit) else "" for key in diagnostics]
            place = (
                run.sequence,
                run.arm,
                run.seed,
                run.kind,
                visit,
                run.tasks[run.task[visit]],
                run.start[visit],
            )
            rows.append((*place, run.online[visit], run.end[visit], ratios[visit], *measured))
    return to_csv(head, rows)


def _has(run: object, key: str, visit: int) -> bool:
    values = run.diagnostics.get(key, ())  # type: ignore[attr-defined]
    return visit < len(values)


def write_paper(study: Study, found: Found, folder: Path) -> list[Path]:
    """Writes every figure as PDF and every table as LaTeX (booktabs) to `folder`, for a paper; returns the files."""
    with draw.on_paper() as pdfs:
        document = compose(study, found)
    content: dict[str, bytes] = {}
    for section in document.sections:
        for number, table in enumerate(section.tables, start=1):
            name = f"{section.title}-{table.caption or number}"
            content[f"{_slug(name)}.tex"] = table.to_latex().encode()
        content |= {f"{_slug(picture.alt)}.pdf": pdfs[picture.svg] for picture in section.pictures}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in content.items():
        (folder / name).write_bytes(text)
    return [folder / name for name in content]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def write_report(
    paths: Sequence[Path],
    out: Path | None = None,
    baseline: str = "",
    metric: str = "",
    paper: bool = False,
) -> list[Path]:
    """Writes the report on `paths`, says what cannot be trusted in it, and returns the files.

    Args:
        paths: grids, run folders, folders of them.
        out: folder to write to; None: the grid's, or ./report.
        baseline: the arm with which others are compared; "": the grid's.
        metric: what arms are ranked by, where more is better; "": the plasticity ratio, or else the end performance.
        paper: write figures as PDF and tables as LaTeX to its folder `paper`, too.

    Raises:
        UserError: nothing to report on, no such arm, or no such metric.
    """
    _check(metric, [key for key, known in METRICS.items() if known.better == "high"], "--metric")
    found = find_runs(paths)
    study = Study(found.runs, baseline or (found.grid.baseline if found.grid else ""), metric)
    if not study.arms:
        raise UserError(f"There is no run to report on in {', '.join(map(str, paths))}, only references.")
    _check(baseline, study.arms, "--baseline")
    document = compose(study, found)
    folder = out or found.folder or Path("report")
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "report.html": render.to_html(document),
        "report.md": render.to_markdown(document),
        "runs.csv": runs_csv(study),
        "visits.csv": visits_csv(study),
    }
    for name, text in content.items():
        (folder / name).write_text(text)
    write_tensorboard.write(study, folder / "tensorboard")
    if paper:
        write_paper(study, found, folder / "paper")
    for warning in [*found.warnings, *result_sections.unsteady(study)]:
        say(f"{program.name('report')}: {warning}", style="yellow")
    return [folder / name for name in content]


def _check(given: str, known: Sequence[str], option: str) -> None:
    if given and given not in known:
        raise UserError(f"{option} cannot be '{given}'. {nearest(given, known)}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command with `arguments` (default: those of the process)."""
    parser = argparse.ArgumentParser(
        prog=program.name("report"),
        description=EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUNS", help="grids, run folders, folders of them"
    )
    parser.add_argument("--out", type=Path, help="folder to write to; default: the grid's, or ./report")
    parser.add_argument("--baseline", default="", metavar="ARM", help="compare with this arm")
    parser.add_argument(
        "--metric", default="", metavar="METRIC", help="rank by this metric, more being better"
    )
    parser.add_argument(
        "--paper", action="store_true", help="figures as PDF and tables as LaTeX, too: OUT/paper"
    )
    given = parser.parse_args(arguments)
    try:
        files = write_report(given.runs, given.out, given.baseline, given.metric, given.paper)
    except UserError as error:
        say(f"{program.name('report')}: {error}")
        sys.exit(2)
    events = files[0].parent / "tensorboard"
    with closed_pipe_is_no_error():
        print(*files, sep="\n")
        print(f"Compare the arms (Custom Scalars):\n  tensorboard --logdir {events / 'comparison'}")
        print(f"Sort the runs (HParams):\n  tensorboard --logdir {events / 'hparams'}")
