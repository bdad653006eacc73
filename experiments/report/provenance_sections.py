"""Makes the sections on what it rests on: definitions of metrics, what is missing, commands and versions."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from isorl.configs.program import command
from isorl.experiments.grid.cell import Cell as GridCell
from isorl.experiments.grid.cell import State, beside
from isorl.experiments.grid.grid import Grid
from isorl.experiments.report.continual_metrics import METRICS
from isorl.experiments.report.document import Cell, Section, Table
from isorl.experiments.report.estimates import seeds_cell
from isorl.experiments.report.runs import Run
from isorl.experiments.report.study import Study
from isorl.experiments.run.atomic_write import read_json

SILENT = re.compile(r" WARNING (Method '\w+' (?:does nothing in this run|never acts).*)")
"""Matches what experiments/run/experiment.py warns of."""
MAX_LISTED = 50
"""Unfinished cells that are listed."""


def all_metrics(study: Study) -> Section:
    """Shows every continual metric of every arm, and what each is."""
    section = Section("All metrics", folded=True)
    for sequence in study.sequences:
        arms = [arm for arm in (*study.arms, *_fresh_arms(study)) if study.finished(sequence, arm)]
        rows = [
            [
                Cell(key),
                *(seeds_cell(list(study.by_seed(key, sequence, arm).values())) for arm in arms),
            ]
            for key in METRICS
        ]
        if arms:
            rows.insert(0, [Cell("boundary"), *(Cell(study.boundary(arm) or "\N{EN DASH}") for arm in arms)])
            head = [study.arm_cell(arm, sequence) for arm in arms]
            names = (f"{arm.text} ({arm.detail})" if arm.detail else arm.text for arm in head)
            section.tables.append(Table(("metric", *names), rows, caption=sequence))
    definitions = [
        [Cell(m.key), Cell(m.formula), Cell(m.range), Cell(m.better), Cell(m.source)]
        for m in METRICS.values()
    ]
    section.tables.append(
        Table(("metric", "formula", "range", "better", "source"), definitions, left=5, caption="Definitions")
    )
    return section


def _fresh_arms(study: Study) -> list[str]:
    return list(dict.fromkeys(run.arm for run in study.runs if run.kind == "fresh"))


def unfinished(study: Study) -> Section | None:
    """Shows what failed, what has not ended, which method never acted, and what could not be shown."""
    rows = [
        [Cell(run.sequence), Cell(run.arm), Cell(str(run.seed)), Cell(run.state.value), Cell(_reason(run))]
        for run in study.runs
        if run.state is not State.FINISHED
    ]
    notes = sorted({note for run in study.runs if run.state is State.FINISHED for note in run.notes})
    texts = [*_silent(study), *(f"Not shown: {note}." for note in notes)]
    if not rows and not texts:
        return None
    if len(rows) > MAX_LISTED:
        texts.append(f"{len(rows)} cells are not finished; the first {MAX_LISTED}:")
    table = Table(("sequence", "arm", "seed", "state", "why"), rows[:MAX_LISTED], left=5)
    return Section("What is missing", texts, tables=[table] if rows else [])


def _silent(study: Study) -> list[str]:
    """Arms whose method a run was too short for, as the log of its first seed says."""
    first = {(s, arm): runs[0] for s in study.sequences for arm in study.arms if (runs := study.of(s, arm))}
    logs = {key: run.folder / "run.log" for key, run in first.items()}
    return [
        f"{arm} on {sequence}: {said}"
        for (sequence, arm), log in logs.items()
        if log.is_file()
        for said in dict.fromkeys(SILENT.findall(log.read_text(errors="replace")))
    ]


def _reason(run: Run) -> str:
    failure = read_json(beside(run.folder, "failure.json"))
    if run.state is State.FAILED and failure is not None:
        return str(failure["reason"])
    return "; ".join(run.notes) or "not started"


def provenance(study: Study, grid: Grid | None) -> Section:
    """Shows commands, versions, machines and tuning."""
    section = Section("How it was made", folded=True)
    if grid is not None and grid.command:
        section.code.append(grid.command)
    found = [_provenance(run) for run in study.runs]
    known = [entry for entry in found if entry]
    section.texts += _kinds("Commits", known, lambda e: str(e.get("commit")))
    section.texts += _kinds(
        "Machines", known, lambda e: f"{e.get('machine')}, {e.get('cpus')} CPUs, GPU {e.get('gpu')}"
    )
    section.texts += _kinds("Versions", known, lambda e: _versions(e))
    if len({entry.get("commit") for entry in known}) > 1:
        section.texts.append("Cells were made by several commits: make sure that they compute the same.")
    section.texts.append(_tuning_text(grid))
    section.tables += _tuning_table(grid)
    if grid is None:
        commands = dict.fromkeys(str(entry.get("command")) for entry in known)
        section.code += list(commands)[:MAX_LISTED]
    else:
        section.code += [f"{command('train')} {shlex.join(cell.overrides)}" for cell in _one_per_arm(grid)]
    return section


def _one_per_arm(grid: Grid) -> list[GridCell]:
    return list({(cell.sequence, cell.arm): cell for cell in reversed(grid.cells)}.values())[::-1][
        :MAX_LISTED
    ]


def _provenance(run: Run) -> dict[str, Any]:
    return read_json(run.folder / "run.json") or {}


def _versions(entry: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in entry.get("versions", {}).items())
    return f"Python {entry.get('python')}, {packages}"


def _kinds(title: str, known: Sequence[dict[str, Any]], of: Callable[[dict[str, Any]], str]) -> list[str]:
    kinds = sorted({of(entry) for entry in known})
    return [f"{title}: {'; '.join(kinds[:5])}{' and more' if len(kinds) > 5 else ''}."] if kinds else []


def _tuning_text(grid: Grid | None) -> str:
    if grid is None or not grid.tuned:
        return "Settings are as given: no tuning is on record."
    return (
        f"Settings chosen from {grid.tuned['budget']} candidates per arm and sequence on seeds {grid.tuned['seeds']}, "
        f"none of which is reported ({grid.tuned['objective']})."
    )


def _tuning_table(grid: Grid | None) -> list[Table]:
    """What was chosen for each arm, with its score; nothing where nothing was tuned."""
    if grid is None or not grid.tuned:
        return []
    rows = [
        [
            Cell(sequence),
            Cell(arm),
            Cell(" ".join(row["overrides"])),
            Cell(f"{row['score']:.4g}"),
            Cell(_spread(row)),
        ]
        for sequence, arms in grid.tuned["chosen"].items()
        for arm, row in arms.items()
        if "tried" in row
    ]
    return [Table(("sequence", "arm", "chosen", "score", "other candidates"), rows, left=3)]


def _spread(row: dict[str, Any]) -> str:
    """Scores of the candidates that were not chosen."""
    others = [score for candidate, score in row["tried"].items() if candidate != " ".join(row["overrides"])]
    return ", ".join(f"{score:.4g}" for score in others)
