"""Makes the sections on how it came about: states of the networks, spectra, what foretells failure, cost."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from isorl.experiments.grid.cell import State
from isorl.experiments.report import charts
from isorl.experiments.report.document import Cell, Picture, Section, Table
from isorl.experiments.report.formatting import format_number
from isorl.experiments.report.panels import MAX_PANELS, panels, present
from isorl.experiments.report.prediction import FAILED, Prediction, predict
from isorl.experiments.report.ridge_plots import ridges
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
    """Shows which diagnostic foretells how later tasks are learned."""
    runs = [
        run
        for run in study.runs
        if run.kind == "arm" and run.visits and not np.isnan(study.ratios(run)).all()
    ]
    keys = sorted(set.intersection(*(set(run.diagnostics) for run in runs))) if runs else []
    if not keys:
        return None
    group = np.array([f"{run.sequence} {run.arm}" for run in runs])
    later = _padded([study.ratios(run) for run in runs])
    found = {
        key: [predict(_padded([run.diagnostics[key] for run in runs]), later, group, lag) for lag in LAGS]
        for key in keys
    }
    order = sorted(keys, key=lambda key: -_strength(found[key][0].within))
    rows = [[Cell(key), *_prediction_cells(found[key])] for key in order]
    head = (
        "diagnostic",
        *(f"{what}, {lag} ahead" for what in ("within arm", "pooled") for lag in LAGS),
        "failure, 1 ahead",
    )
    failures = int(np.count_nonzero(later < FAILED))
    section = Section("Which diagnostic foretells failure")
    section.texts.append(
        "Spearman's correlation of a diagnostic at the end of a visit with the ratio to fresh some visits later. "
        "Within arm: inside each arm and sequence, then averaged, so that differences between methods cannot make it. "
        f"Failure: chance that the diagnostic is higher before a visit below {FAILED} than before another (0.5 says "
        f"nothing); {failures} visits failed. No correlation is a cause."
    )
    section.tables.append(Table(head, rows))
    return section


def _prediction_cells(found: Sequence[Prediction]) -> list[Cell]:
    """One column per lag and kind."""
    within = [Cell(format_number(p.within), shade=_known(p.within)) for p in found]
    pooled = [Cell(format_number(p.correlation), shade=_known(p.correlation)) for p in found]
    return [*within, *pooled, Cell(format_number(found[0].auroc), shade=_known(2 * (found[0].auroc - 0.5)))]


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
