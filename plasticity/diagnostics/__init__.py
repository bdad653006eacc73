"""Plasticity diagnostics: `diagnose` for a training loop, `report` for a look at any module."""

# Importing a file of metrics registers them.
from plasticity.diagnostics import features as features
from plasticity.diagnostics import isometry as isometry
from plasticity.diagnostics import kernel as kernel
from plasticity.diagnostics import parameters as parameters
from plasticity.diagnostics import trainability as trainability
from plasticity.diagnostics import units as units
from plasticity.diagnostics.diagnose import DEFAULT_METRICS, diagnose
from plasticity.diagnostics.metric import METRICS, Metric, describe, metric
from plasticity.diagnostics.ntk import empirical_ntk
from plasticity.diagnostics.parameters import GradientCosine
from plasticity.diagnostics.probe import Probe, snapshot
from plasticity.diagnostics.report import Report, report
from plasticity.diagnostics.trainability import fit_random_targets

__all__ = [
    "DEFAULT_METRICS",
    "METRICS",
    "GradientCosine",
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
