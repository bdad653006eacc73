"""Plasticity by dynamical isometry: the AdamO optimizer, isometric networks, penalties and diagnostics.

Depends on torch and numpy alone.
"""

from isorl.plasticity.adamo import AdamO, isometry_half_life, isometry_lambda
from isorl.plasticity.controller import AdaptiveStrength
from isorl.plasticity.diagnostics import DEFAULT_METRICS, METRICS, diagnose, empirical_ntk, report, snapshot
from isorl.plasticity.networks import NetworkSpec, build_mlp, build_nature_cnn, initialise_, project_
from isorl.plasticity.penalties import gram_penalty, jacobian_penalty, module_gram_penalty
from isorl.plasticity.roles import Role, parameter_groups, roles

__all__ = [
    "DEFAULT_METRICS",
    "METRICS",
    "AdamO",
    "AdaptiveStrength",
    "NetworkSpec",
    "Role",
    "build_mlp",
    "build_nature_cnn",
    "diagnose",
    "empirical_ntk",
    "gram_penalty",
    "initialise_",
    "isometry_half_life",
    "isometry_lambda",
    "jacobian_penalty",
    "module_gram_penalty",
    "parameter_groups",
    "project_",
    "report",
    "roles",
    "snapshot",
]
