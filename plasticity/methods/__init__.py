"""Methods that keep a network plastic. One file and one line in METHODS adds one."""

from collections.abc import Callable, Mapping

from plasticity.methods.base import Learner, Method, Methods
from plasticity.methods.l2_init import L2Init
from plasticity.methods.projection import Projection
from plasticity.methods.shrink_and_perturb import ShrinkAndPerturb

METHODS: Mapping[str, Callable[..., Method]] = {
    "l2_init": L2Init,
    "shrink_and_perturb": ShrinkAndPerturb,
}
"""Name on the command line (`method=[NAME, ...]`) -> dataclass with its options."""

__all__ = ["METHODS", "L2Init", "Learner", "Method", "Methods", "Projection", "ShrinkAndPerturb"]
