"""Makes the sections on how it came about: states of the networks, spectra, what foretells failure, cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from isorl.experiments.grid.cell import State
from isorl.experiments.report import charts, final_state
from isorl.experiments.report.document import Cell, Picture, Section, Table
from isorl.experiments.report.estimates import estimate_cell
from isorl.experiments.report.formatting import format_interval, format_number
from isorl.experiments.report.panels import MAX_PANELS, panels, present
from isorl.experiments.report.prediction import FAILED, Prediction, predict
from isorl.experiments.report.ridge_plots import ridges
from isorl.experiments.report.statistics import Estimate
from isorl.experiments.report.study import Study

LAGS = (1, 2, 3, 5)
"""Visits ahead, for the table of what foretells failure."""


def networks(study: Study) -> Section:
    """Shows diagnostics over the visits."""
    section = Section("The state of the networks", legend=True)
    section.texts.append("Of the network that acts, at the end of each visit; median over seeds.")
    for sequence in study.sequences:
        found = present([charts.diagnostic(study, sequence, metric) for metric in charts.DIAGNOSTICS])
        section.pictures += [Picture(p.svg, p.alt, f"{sequence}: {p.title}") for p in found]
    section.pictures = section.pictures[:MAX_PANELS]
    section.tables = [final_state.table(study, sequence) for sequence in study.sequences]
    section.tables = [table for table in section.tables if table.rows]
    if section.tables:
        section.texts.append(final_state.explained(study))
    if not section.pictures:
        section.texts = ["No diagnostics were measured (diagnostics.every=0, or a log of another program)."]
    return section


def ridge_plots(study: Study) -> Section:
    """Shows spectra over time."""
    section = Section("Singular values of the layer Jacobians over time")
    section.texts.append(
        "One ridge for each visit, the first on top, of one seed. Healthy is one narrow peak near 1 (dotted)."
    )
    return panels(section, study, ridges)


def prediction(study: Study) -> Section | None:
    """Shows which diagnostic foretells how later tasks are learned, within arms and across."""
    runs = [run for run in study.runs if run.kind == "arm" and run.visits]
    rated = [run for run in runs if not np.isnan(study.ratios(run)).all()]
    runs = rated or runs  # without references the raw returns: ranks are taken inside an arm and sequence
    keys = sorted(set.intersection(*(set(run.diagnostics) for run in runs))) if runs else []
    if not keys:
        return None
    arm, sequence = (np.array([getattr(run, name) for run in runs]) for name in ("arm", "sequence"))
    later = _padded([study.ratios(run) if rated else run.online for run in runs])
    measured = {key: _padded([run.diagnostics[key] for run in runs]) for key in keys}

    def found(key: str, lag: int, control: np.ndarray) -> Prediction:
        return predict(measured[key], later, arm, sequence, lag, control)

    ahead = {key: [found(key, lag, later) for lag in LAGS] for key in keys}
    order = sorted(keys, key=lambda key: -_strength(ahead[key][0].within.value))
    head = ("diagnostic", *(f"within arm, {lag} ahead" for lag in LAGS), "beyond the present", "across arms",
            "failure", "visits", "runs")  # fmt: skip
    section = Section("Which diagnostic foretells the next visit")
    section.texts.append(_prediction_explained(later, bool(rated)))
    section.texts += _rank_or_conditioning(measured, ahead, found)
    section.tables.append(Table(head, [[Cell(key), *_prediction_cells(ahead[key])] for key in order]))
    return section


def _prediction_explained(later: np.ndarray, rated: bool) -> str:
    failures = int(np.count_nonzero(later < FAILED))
    what, failed = (
        ("ratio to fresh", f"a visit below {FAILED}; {failures} visits failed")
        if rated
        else (
            "raw return (there are no references)",
            f"a raw return below {FAILED}, which may mean nothing here",
        )
    )
    return (
        f"Spearman's correlation of a diagnostic at the end of a visit with the {what} some visits later. Within arm: "
        "inside each arm and sequence, then averaged, so that differences between methods cannot make it. Beyond the "
        "present: the same for the next visit, given how the present one went (partial correlation), that is what the "
        "diagnostic says and returns do not. Across arms: between the arms' means inside each sequence, confounded by "
        "all else that tells arms apart. Intervals: 95 %, whole runs drawn anew, from five seeds on. Failure: chance "
        f"that the diagnostic is higher before {failed} (0.5 says nothing). No correlation is a cause."
    )


RANK, CONDITION = "feature_effective_rank", "ntk_condition"


def _rank_or_conditioning(
    measured: dict[str, np.ndarray],
    ahead: dict[str, list[Prediction]],
    found: Callable[[str, int, np.ndarray], Prediction],
) -> list[str]:
    """Answers whether the rank of the representation foretells the next visit, or the conditioning of the kernel."""
    if not {RANK, CONDITION} <= set(measured):
        return []
    given = {
        RANK: found(RANK, 1, measured[CONDITION]).beyond,
        CONDITION: found(CONDITION, 1, measured[RANK]).beyond,
    }
    sentences = [
        f"{key} {_foretells(ahead[key][0].within)} within arms, {_foretells(given[key])} once the other is held fixed, "
        f"and {_foretells(ahead[key][0].across)} across arms."
        for key in (RANK, CONDITION)
    ]
    return [f"Rank or conditioning? {' '.join(sentences)}"]


def _foretells(found: Estimate) -> str:
    """An estimate in words: what it says where its interval leaves out zero."""
    if math.isnan(found.value):
        return "could not be measured"
    number = f"({format_number(found.value)} {format_interval(found)})".replace(" )", ")")
    if math.isnan(found.low):
        return f"has too few seeds for a statement {number}"
    return (
        f"foretells the next visit {number}" if found.low * found.high > 0 else f"foretells nothing {number}"
    )


def _prediction_cells(found: Sequence[Prediction]) -> list[Cell]:
    """One column per lag, then what is known of the next visit."""
    first = found[0]
    estimates = [*(p.within for p in found), first.beyond, first.across]
    return [
        *(estimate_cell(estimate, _known(estimate.value)) for estimate in estimates),
        Cell(format_number(first.auroc), shade=_known(2 * (first.auroc - 0.5))),
        Cell(f"{first.pairs:,}"),
        Cell(f"{first.runs:,}"),
    ]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _strength(value: float) -> float:
    return 0.0 if math.isnan(value) else abs(value)


def _padded(rows: Sequence[np.ndarray]) -> np.ndarray:
    longest = max(len(row) for row in rows)
    return np.array(
        [np.pad(row.astype(float), (0, longest - len(row)), constant_values=np.nan) for row in rows]
    )


def cost(study: Study) -> Section | None:
    """Shows cost against benefit."""
    pictures = present([charts.cost_and_benefit(study, sequence) for sequence in study.sequences])
    arms = [run for run in study.runs if run.kind == "arm" and run.state is State.FINISHED]
    shared = sum(run.runs_in_process != 1 for run in arms)
    texts = []
    if pictures:
        texts.append(
            "Wall time where the cells ran, diagnostics and evaluations included; on a busy machine a guess."
        )
    if shared:
        texts.append(
            f"{shared} of {len(arms)} runs shared a process, or it is not known whether they did: what each of them "
            "cost was not measured. Runs that are made with together=1 have their own times."
        )
    return Section("Cost against benefit", texts, pictures, legend=bool(pictures)) if texts else None
