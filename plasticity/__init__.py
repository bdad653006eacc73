"""Plasticity by dynamical isometry: the AdamO optimizer, isometric networks, penalties and diagnostics.

Depends on torch alone.
"""

from plasticity.adamo import AdamO, isometry_half_life
from plasticity.networks import NetworkSpec, build_mlp, build_nature_cnn, initialise_, project_
from plasticity.roles import Role, parameter_groups, roles

__all__ = [
    "AdamO",
    "NetworkSpec",
    "Role",
    "build_mlp",
    "build_nature_cnn",
    "initialise_",
    "isometry_half_life",
    "parameter_groups",
    "project_",
    "roles",
]
