"""Writes a whole grid for TensorBoard: HParams with a line per run, and every arm's curves in one chart.

comparison/ has one event folder per arm with the means over its seeds, under the same keys for all arms, so that
TensorBoard overlays them: open *Custom Scalars*. hparams/ has one per run with its hyper-parameters and results. They
are two folders because TensorBoard hides every curve once it finds more than forty runs. Horizontal axes are visits, or
parts of them for returns.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard.writer import SummaryWriter

from isorl.experiments.report.charts import DIAGNOSTICS, mean_over_seeds
from isorl.experiments.report.study import Study

LEADING = (
    "plasticity_ratio",
    "plasticity_trend",
    "worst_visit",
    "average_performance",
    "end_performance",
    "forgetting",
)
MAX_RUNS = 500
"""Runs in the HParams page, which becomes unusable with more."""


def write(study: Study, folder: Path) -> None:
    """Writes the comparison anew; what an earlier report wrote there is replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    for arm in study.arms:
        with SummaryWriter(str(folder / "comparison" / _folder(arm))) as writer:
            writer.add_custom_scalars(layout(study))
            for sequence in study.sequences:
                _arm(writer, study, sequence, arm)
    _hparams(study, folder / "hparams")


def layout(study: Study) -> dict[str, dict[str, list[Any]]]:
    """Returns custom scalars: one category per sequence, one chart per question, one line per arm."""
    questions = {"return": "return", "ratio to a fresh agent": "ratio"}
    questions |= {title: key for key, (title, _) in DIAGNOSTICS.items()}
    return {
        sequence: {
            title: ["Multiline", [f"^{re.escape(_tag(sequence))}/{key}$"]] for title, key in questions.items()
        }
        for sequence in study.sequences
    }


def _arm(writer: SummaryWriter, study: Study, sequence: str, arm: str) -> None:
    runs, place = study.of(sequence, arm), _tag(sequence)
    curves = [run.curve.ravel() for run in runs if run.curve is not None]
    series = {"return": curves, "ratio": [study.ratios(run) for run in runs]}
    for key in DIAGNOSTICS:
        series[key] = [run.diagnostics[key] for run in runs if key in run.diagnostics]
    for key, rows in series.items():
        if rows:
            for step, value in enumerate(mean_over_seeds(rows)):
                if np.isfinite(value):
                    writer.add_scalar(f"{place}/{key}", value, step)


def _hparams(study: Study, folder: Path) -> None:
    known = study.values
    done = [run for run in study.runs if run.kind == "arm" and run.id in known[LEADING[0]]]
    for run in done[:MAX_RUNS]:
        results = {f"result/{key}": known[key][run.id] for key in LEADING if np.isfinite(known[key][run.id])}
        name = "/".join(map(_folder, (run.sequence, run.arm, f"seed{run.seed}")))
        described = {"arm": run.arm, "sequence": run.sequence, "seed": run.seed}
        with SummaryWriter(str(folder / name)) as writer:
            writer.add_hparams(described, results, run_name=".")


def _folder(name: str) -> str:
    """A name that every file system can hold; TensorBoard shows it for the run."""
    return re.sub(r"[^\w.+&, -]+", "_", name)


def _tag(name: str) -> str:
    """A name that torch's writer leaves as it is in a tag."""
    return re.sub(r"[^\w.-]+", "_", name)
