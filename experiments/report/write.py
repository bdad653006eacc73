"""The command behind report.py: finds runs, measures them, writes report.html, report.md and the numbers as CSV."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from isorl.configs import UserError, program
from isorl.experiments.grid.cell import State
from isorl.experiments.grid.grid import Grid
from isorl.experiments.report import causes, origin, outcome, page, tensorboard
from isorl.experiments.report.document import Report, to_csv
from isorl.experiments.report.find import find
from isorl.experiments.report.metrics import METRICS
from isorl.experiments.report.study import Study

EXPLAINED = """Writes one page about runs: report.html (no network needed), report.md, runs.csv, visits.csv.

  isorl report runs/grids/control_quick         a grid, finished or not
  isorl report RUN_DIR RUN_DIR ...              single runs
  isorl report runs                             everything below a folder
  isorl report ~/sb3_logs                       TensorBoard logs of any stable-baselines3 run"""


def report(study: Study, grid: Grid | None) -> Report:
    """Everything that the runs show, in the order in which it is read."""
    parts = [
        outcome.results(study),
        outcome.comparison(study),
        outcome.trends(study),
        outcome.learning(study),
        outcome.visits(study),
        causes.networks(study),
        causes.ridge_plots(study),
        causes.prediction(study),
        causes.cost(study),
        origin.unfinished(study),
        origin.all_metrics(study),
        origin.origin(study, grid),
    ]
    shown = [part for part in parts if part is not None and (part.texts or part.tables or part.pictures)]
    return Report(grid.name if grid else "Runs", grid.about if grid else "", facts(study), shown, study.arms)


def facts(study: Study) -> list[tuple[str, str]]:
    """Figures for the head of the page."""
    states = Counter(run.state for run in study.runs)
    steps = sum(run.agent_steps for run in study.runs if run.kind != "random")
    hours = float(np.nansum([run.seconds for run in study.runs])) / 3600
    seeds = {run.seed for run in study.runs}
    found = [
        (str(len(study.arms)), "arms"),
        (str(len(study.sequences)), "sequences"),
        (str(len(seeds)), "seeds"),
        (f"{states[State.FINISHED]:,} of {len(study.runs):,}", "cells finished"),
        (f"{steps / 1e6:,.1f} million", "agent steps"),
        (f"{hours:,.1f}", "hours of training"),
    ]
    return [*found, (str(states[State.FAILED]), "failed")] if states[State.FAILED] else found


def runs_csv(study: Study) -> str:
    """One line per finished run: every metric."""
    head = ("sequence", "arm", "seed", "kind", "id", "agent_steps", "seconds", *METRICS)
    known = study.values
    rows = [
        (run.sequence, run.arm, run.seed, run.kind, run.id, run.agent_steps, run.seconds,
         *(known[key][run.id] for key in METRICS))
        for run in study.runs
        if run.id in next(iter(known.values()))
    ]  # fmt: skip
    return to_csv(head, rows)


def visits_csv(study: Study) -> str:
    """One line per run and visit: return, ratio to fresh, diagnostics."""
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


def write(paths: Sequence[Path], out: Path | None = None) -> list[Path]:
    """Writes the report on `paths`; gives back the files.

    Raises:
        UserError: nothing to report on.
    """
    runs, grid = find(paths)
    study = Study(runs, grid.baseline if grid else "")
    if not study.arms:
        raise UserError(f"There is no run to report on in {', '.join(map(str, paths))}, only references.")
    made = report(study, grid)
    folder = out or (paths[0] if grid else Path("report"))
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "report.html": page.page(made),
        "report.md": page.markdown(made),
        "runs.csv": runs_csv(study),
        "visits.csv": visits_csv(study),
    }
    for name, text in content.items():
        (folder / name).write_text(text)
    tensorboard.write(study, folder / "tensorboard")
    return [folder / name for name in content]


def main(words: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog=program.name("report"),
        description=EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUNS", help="grids, run folders, folders of them"
    )
    parser.add_argument("--out", type=Path, help="folder to write to; default: the grid's, or ./report")
    given = parser.parse_args(words)
    try:
        files = write(given.runs, given.out)
    except UserError as error:
        print(f"{program.name('report')}: {error}", file=sys.stderr)
        sys.exit(2)
    for file in files:
        print(file)
    events = files[0].parent / "tensorboard"
    print(f"Compare the arms: tensorboard --logdir {events / 'comparison'}   (Custom Scalars)")
    print(f"Sort the runs:    tensorboard --logdir {events / 'hparams'}   (HParams)")
