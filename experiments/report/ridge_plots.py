"""Draws ridge plots: the singular values of the layer Jacobians after each visit, one ridge above the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from isorl.experiments.report import draw
from isorl.experiments.report.document import Picture
from isorl.experiments.report.runs import MAIN_NETWORKS, Run, records
from isorl.experiments.report.study import Study

MAX_RIDGES = 12
"""Visits that are drawn at most, evenly chosen."""
SMALLEST, LARGEST, BINS = 1e-2, 1e1, 72
"""Of the logarithmic axis; what lies outside stands in the outermost bin."""
OVERLAP = 2.2
"""Height of a ridge in distances between two."""


def spectra_of(run: Run) -> dict[int, list[float]]:
    """Returns for each visit the acting network's pooled singular values (hidden layers), measured last there."""
    wanted = {f"plasticity/layer_jacobian_spectrum/{network}" for network in MAIN_NETWORKS}
    found = (row for row in records(run.folder / "metrics.jsonl") if row["key"] in wanted)
    return {row["visit"]: row["value"] for row in found if row["agent_step"] > 0}


def densities(spectra: dict[int, list[float]]) -> tuple[np.ndarray, list[int], np.ndarray]:
    """Returns (edges of the bins (B+1,), visits, share of the singular values in each bin (visits, B))."""
    edges = np.logspace(np.log10(SMALLEST), np.log10(LARGEST), BINS + 1)
    every = sorted(spectra)
    chosen = [
        every[i] for i in np.unique(np.linspace(0, len(every) - 1, min(MAX_RIDGES, len(every))).astype(int))
    ]
    counted = [np.histogram(np.clip(spectra[visit], SMALLEST, LARGEST), edges)[0] for visit in chosen]
    shares = np.array([count / max(count.sum(), 1) for count in counted])
    return edges, chosen, shares


def ridges(study: Study, sequence: str, arm: str) -> Picture | None:
    """Draws the first seed's spectra, the first visit on top."""
    runs: Sequence[Run] = study.of(sequence, arm)
    spectra = spectra_of(runs[0]) if runs else {}
    if not spectra:
        return None
    edges, visits, shares = densities(spectra)
    kernel = np.array([1, 2, 3, 2, 1]) / 9
    smooth = np.array([np.convolve(row, kernel, "same") for row in shares])
    number, middle = study.arms.index(arm), np.sqrt(edges[:-1] * edges[1:])
    with draw.panel(height=2.9) as (axes, made):
        scale = OVERLAP / max(float(np.quantile(smooth.max(axis=1), 0.8)), 1e-9)
        for row, (visit, share) in enumerate(zip(visits, smooth, strict=True)):
            base, height = -row, np.minimum(share * scale, 1.3 * OVERLAP)
            axes.fill_between(
                middle, base, base + height, color=draw.colour(number), alpha=0.45, lw=0, zorder=row
            )
            axes.plot(middle, base + height, color=draw.colour(number), lw=0.9, zorder=row + 0.5)
            axes.text(SMALLEST * 0.9, base, str(visit + 1), ha="right", fontsize=7.5)
        axes.axvline(1, color=draw.INK, lw=0.9, ls=":")
        axes.set(
            xscale="log", xlabel="singular value of the layer Jacobians", yticks=[], xlim=(SMALLEST, LARGEST)
        )
        axes.set_ylabel("after visit", labelpad=16)
        axes.spines["left"].set_visible(False)
        axes.set_xticks([0.01, 0.1, 1, 10], ["≤ 0.01", "0.1", "1", "≥ 10"])
        axes.get_xticklabels()[-1].set_horizontalalignment("right")  # centred, it would stand across the edge
    return Picture(
        made[0], f"spectra of the layer Jacobians of {arm} on {sequence}", title=f"{arm}, seed {runs[0].seed}"
    )
