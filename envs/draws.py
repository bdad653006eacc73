"""What a sequence leaves open for each task: seeds, indices and random draws in its arguments.

goal_seed: task_seed                    an integer drawn anew for every task
goal_seed: sequence_seed                one integer for the whole sequence
mode: task_index                        0, 1, 2, ... over the tasks of an entry
friction: {log_uniform: [0.02, 2]}      a number drawn anew for every task
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from isorl.configs import UserError

DRAWS: dict[str, Callable[..., Any]] = {
    "uniform": lambda rng, low, high: rng.uniform(low, high),
    "log_uniform": lambda rng, low, high: math.exp(rng.uniform(math.log(low), math.log(high))),
    "normal": lambda rng, mean, std: rng.normal(mean, std),
    "choice": lambda rng, *values: values[rng.integers(len(values))],
}


@dataclass(frozen=True)
class Draws:
    """Fills in the arguments of one task.

    Args:
        sequence_seed: the sequence's seed.
        position: the task's place among all tasks of the sequence.
        task_index: the task's place among the tasks of its entry.
    """

    sequence_seed: int
    position: int
    task_index: int

    def fill(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a copy of `arguments` with nothing left open.

        Raises:
            UserError: a draw whose numbers do not fit.
        """
        return {key: self._filled(key, value) for key, value in arguments.items()}

    def _filled(self, key: str, value: Any) -> Any:
        named = {
            "task_seed": self._seed(),
            "sequence_seed": self.sequence_seed,
            "task_index": self.task_index,
        }
        if isinstance(value, str):
            return named.get(value, value)
        if isinstance(value, Mapping) and len(value) == 1 and next(iter(value)) in DRAWS:
            return self._drawn(key, *next(iter(value.items())))
        return value

    def _seed(self) -> int:
        return int(np.random.SeedSequence([self.sequence_seed, self.position]).generate_state(1)[0])

    def _drawn(self, key: str, kind: str, numbers: Any) -> Any:
        rng = np.random.default_rng([self._seed(), *key.encode()])  # two arguments of one task differ
        try:
            inspect.signature(DRAWS[kind]).bind(rng, *numbers)
        except TypeError:
            _, *names = inspect.signature(DRAWS[kind]).parameters
            raise UserError(
                f"'{key}: {{{kind}: {numbers}}}' cannot be drawn: it takes a list of {', '.join(names)}."
            ) from None
        try:
            drawn = DRAWS[kind](rng, *numbers)
        except (TypeError, ValueError) as error:
            raise UserError(f"'{key}: {{{kind}: {numbers}}}' cannot be drawn: {error}.") from None
        return drawn.item() if isinstance(drawn, np.generic) else drawn
