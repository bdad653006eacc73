"""isorl: plasticity in continual reinforcement learning.

`isorl.plasticity` is the science (torch and numpy alone), `isorl.envs` the streams of tasks, `isorl.agents` the
learners, `isorl.experiments` runs, grids and reports, `isorl.configs` what a run is. `load` opens a trained run,
`results` makes tables of many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isorl.experiments.run.load import load
    from isorl.experiments.tables import results

__all__ = ["load", "results"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imports what `__all__` names when it is asked for: `isorl.plasticity` needs none of it."""
    if name == "load":
        from isorl.experiments.run.load import load

        return load
    if name == "results":
        from isorl.experiments.tables import results

        return results
    raise AttributeError(f"module 'isorl' has no attribute '{name}'")
