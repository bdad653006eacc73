"""Where methods are filed by name; a module of its own, so that every method's file can import it."""

from isorl.plasticity.methods.base import Method
from isorl.plasticity.registry import Registry

METHODS: Registry[type[Method]] = Registry("method")
"""Name on the command line (`method=[NAME, ...]`) -> dataclass with its options."""
