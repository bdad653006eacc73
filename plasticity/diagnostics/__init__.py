"""Plasticity diagnostics: `diagnose` for a training loop, `report` for a look at any module."""

# Importing a file of metrics registers them.
from isorl.plasticity.diagnostics import features as features
from isorl.plasticity.diagnostics import isometry as isometry
from isorl.plasticity.diagnostics import kernel as kernel
from isorl.plasticity.diagnostics import parameters as parameters
from isorl.plasticity.diagnostics import trainability as trainability
from isorl.plasticity.diagnostics import units as units
from isorl.plasticity.diagnostics.diagnose import DEFAULT_METRICS, diagnose
from isorl.plasticity.diagnostics.metric import METRICS, Metric, describe, metric
from isorl.plasticity.diagnostics.ntk import empirical_ntk
from isorl.plasticity.diagnostics.probe import Probe, snapshot
from isorl.plasticity.diagnostics.report import Report, report
from isorl.plasticity.diagnostics.trainability import fit_random_targets

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
