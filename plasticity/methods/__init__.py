"""Methods that keep a network plastic: one file and one registration each, found by themselves.

A new one needs `plasticity/methods/<name>.py` with a dataclass under `@METHODS.register("<name>")`, and
`configs/method/<name>.yaml` with its options for the command line. docs/methods.md is written from these files.
"""

from isorl.plasticity.methods.base import FirstEffect, Method, Note, PeriodicMethod
from isorl.plasticity.methods.composition import Methods
from isorl.plasticity.methods.learner import Batch, Learner
from isorl.plasticity.methods.registry import METHODS
from isorl.plasticity.registry import import_modules

import_modules(__name__, __path__)

__all__ = ["METHODS", "Batch", "FirstEffect", "Learner", "Method", "Methods", "Note", "PeriodicMethod"]
