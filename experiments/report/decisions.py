"""Shows what the control loop `adaptive_isometry` has decided: the strength over the run, and how often it changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from isorl.experiments.report import draw
from isorl.experiments.report.document import Cell, Picture, Section, Table
from isorl.experiments.report.formatting import format_number
from isorl.experiments.report.panels import panels
from isorl.experiments.report.runs import Run, records
from isorl.experiments.report.study import Study

Array = np.ndarray
KEY = "method/adaptive_isometry/strength/"


def strengths(run: Run) -> dict[str, tuple[Array, Array]]:
    """Returns penalty -> (agent steps, strengths), each (K,), after every decision of a run."""
    config = run.folder / "config.yaml"
    if not (config.is_file() and "adaptive_isometry:" in config.read_text()):
        return {}  # without reading all that it has measured
    found: dict[str, list[tuple[int, float]]] = {}
    for row in records(run.folder / "metrics.jsonl", containing=KEY):
        found.setdefault(row["key"].removeprefix(KEY), []).append((row["agent_step"], row["value"]))
    return {penalty: (np.array(rows).T[0], np.array(rows).T[1]) for penalty, rows in found.items()}


def decisions(study: Study) -> Section | None:
    """Shows the strengths of every arm that has the control loop."""
    section = Section("What the control loop decided")
    section.texts.append(
        "The strength of the isometry penalty that adaptive_isometry controls, after each decision; one line a seed. "
        "Rises follow a declining index, or dormant units that did not fall. Every run.log has each change with its "
        "reason."
    )
    rows = []
    for sequence in study.sequences:
        for arm in study.arms:
            found = [known for run in study.of(sequence, arm) if (known := strengths(run))]
            for penalty in sorted({penalty for known in found for penalty in known}):
                values = [known[penalty][1] for known in found if penalty in known]
                rows.append([Cell(f"{sequence}: {arm}"), Cell(penalty), *_counts(values)])
    if not rows:
        return None
    head = ("", "penalty", "seeds", "decisions", "rises", "falls", "strength at first", "at most", "at last")
    section.tables.append(Table(head, rows, left=2))
    return panels(section, study, _picture)


def _counts(values: Sequence[Array]) -> list[Cell]:
    changes = Counter(int(sign) for one in values for sign in np.sign(np.diff(one)))
    firsts, mosts, lasts = (float(np.median([f(one) for one in values])) for f in (_first, np.max, _last))
    counts = (len(values), sum(map(len, values)), changes[1], changes[-1])
    return [
        *(Cell(f"{count:,}") for count in counts),
        *(Cell(format_number(v)) for v in (firsts, mosts, lasts)),
    ]


def _first(values: Array) -> float:
    return float(values[0])


def _last(values: Array) -> float:
    return float(values[-1])


def _picture(study: Study, sequence: str, arm: str) -> Picture | None:
    found = [known for run in study.of(sequence, arm) if (known := strengths(run))]
    if not found:
        return None
    with draw.panel() as (axes, made):
        for known in found:
            for steps, values in known.values():
                axes.plot(
                    steps, values, color=draw.colour(study.arms.index(arm)), lw=1.0, drawstyle="steps-post"
                )
        axes.set(yscale="log", ylabel="strength")
        draw.plain_numbers(axes)
        draw.steps_label(axes, max(steps[-1] for known in found for steps, _ in known.values()))
    return Picture(made[0], f"strength over the run, {arm} on {sequence}", title=arm)
