"""What environments do wrong, and what is done about it: the run stops and says where, or goes on and counts."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from isorl.configs.errors import RunStopped
from isorl.configs.schema import FaultsConfig


class EnvironmentFailed(RunStopped):
    """Says that an environment raised, or gave what no environment may give."""


@dataclass
class Failures:
    """Knows what is allowed, and counts what has happened.

    Attributes:
        config: stop or go on.
        counts: "restarts" of copies, "numbers" that were not finite and became 0, "updates" that were skipped.
    """

    config: FaultsConfig = field(default_factory=FaultsConfig)
    counts: Counter[str] = field(default_factory=Counter)

    def finite(self, values: np.ndarray, what: str) -> np.ndarray:
        """Returns `values` (n_envs, ...), if they are finite; else with zeros for those that are not.

        Raises:
            EnvironmentFailed: some are not, and the run shall stop.
        """
        # the sum of squares is finite only where all are, and costs a fifth; where it is not it may have overflowed
        if values.dtype.kind != "f" or math.isfinite(np.vdot(values, values)) or np.isfinite(values).all():
            return values
        bad = ~np.isfinite(values)
        if self.config.numbers == "stop":
            copy = int(np.flatnonzero(bad.reshape(len(values), -1).any(axis=1))[0])
            raise EnvironmentFailed(
                f"copy {copy} gave {what} that is not finite: {values[copy]}. "
                "With faults.numbers=skip such numbers become 0 and are counted."
            )
        self.counts["numbers"] += int(bad.sum())
        return np.where(bad, 0, values).astype(values.dtype)
