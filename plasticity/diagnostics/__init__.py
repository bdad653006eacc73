"""Plasticity diagnostics: `diagnose` for a training loop, `report` for a look at any module.

A new metric needs a function under `@metric(...)` in any file of this folder; it is found by itself.
"""

from isorl.plasticity.diagnostics.diagnose import DEFAULT_METRICS, diagnose
from isorl.plasticity.diagnostics.metric import METRICS, Metric, describe, metric
from isorl.plasticity.diagnostics.ntk import empirical_ntk
from isorl.plasticity.diagnostics.probe import Probe, snapshot
from isorl.plasticity.diagnostics.report import Report, report
from isorl.plasticity.diagnostics.trainability import fit_random_targets
from isorl.plasticity.registry import import_modules

import_modules(__name__, __path__)

__all__ = [
    "DEFAULT_METRICS",
    "METRICS",
    "Metric",
    "Probe",
    "Report",
    "describe",
    "diagnose",
    "empirical_ntk",
    "fit_random_targets",
    "metric",
    "report",
    "snapshot",
]
