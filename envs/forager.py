"""A forager on an endless field: it sees only what is near, and no episode ever begins anew.

After the Forager environments of continual-foragax, in numpy: so a run needs no JAX, and its state is a few arrays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gymnasium import spaces

from isorl.envs.numpy_env import NumpyVectorEnv, SingleEnv

MOVES = np.array([[-1, 0], [0, 1], [1, 0], [0, -1]])
"""Row and column of the actions up, right, down, left."""


class Forager(NumpyVectorEnv):
    """Grows objects of two kinds on a square field whose edges meet; whoever steps on one collects its value.

    What is collected grows again at once on an empty place. The observation is the square around the forager, one plane
    for each kind. A `window` of agent steps counts as an episode and ends in a truncation, so that returns can be
    reported, but nothing is reset.

    Args:
        num_envs: number of copies.
        size: rows and columns of the field.
        view: rows and columns of what is seen; odd, at most `size`.
        density: share of the field that grows something, half of it of each kind.
        values: rewards for an object of the first and of the second kind.
        window: agent steps over which a return is summed.
    """

    STATE = ("field", "place")

    def __init__(
        self,
        num_envs: int = 1,
        size: int = 15,
        view: int = 7,
        density: float = 0.2,
        values: Sequence[float] = (1.0, -1.0),
        window: int = 1_000,
    ) -> None:
        if not (view % 2 and 0 < view <= size):
            raise ValueError(f"'view' is {view}; it must be odd and at most 'size', which is {size}.")
        self._each = round(density * size**2 / 2)
        if not 0 < self._each < (size**2 - 1) / 2:
            raise ValueError(
                f"'density' is {density}; a field of {size} x {size} needs some objects and some room."
            )
        if len(values) != 2 or window < 1:
            raise ValueError(
                f"'values' must be two numbers and 'window' at least 1, not {values} and {window}."
            )
        super().__init__(
            num_envs, spaces.Box(0.0, 1.0, (2, view, view), np.float32), spaces.Discrete(4), window
        )
        self.size = size
        self.field = np.zeros((num_envs, size, size), dtype=np.int64)  # 0: empty, else the kind
        self.place = np.zeros((num_envs, 2), dtype=np.int64)  # row, column
        self._values = np.array([0.0, *values], np.float32)
        self._copies, self._around = np.arange(num_envs), np.arange(view) - view // 2

    def begin(self, copies: np.ndarray) -> None:
        """Grows a field where none has been walked on yet; elsewhere the walk goes on."""
        for copy in np.flatnonzero(copies & (self.steps == 0)):
            cells = self.np_random.permutation(self.size**2)
            field = np.zeros(self.size**2, dtype=np.int64)
            field[cells[: self._each]], field[cells[self._each : 2 * self._each]] = 1, 2
            self.field[copy] = field.reshape(self.size, self.size)
            self.place[copy] = np.divmod(cells[-1], self.size)

    def advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Takes a step and what is there."""
        self.place = (self.place + MOVES[actions]) % self.size
        at = (self._copies, self.place[:, 0], self.place[:, 1])
        found = self.field[at]
        self.field[at] = 0
        for copy in np.flatnonzero(found):
            self._grow(copy, found[copy])
        return self._values[found], np.zeros(self.num_envs, dtype=bool)

    def _grow(self, copy: int, kind: int) -> None:
        """Lets an object of `kind` grow on an empty place, but not under the forager."""
        row, column = self.place[copy]
        empty = self.field[copy] == 0
        empty[row, column] = False
        self.field[copy].flat[self.np_random.choice(np.flatnonzero(empty))] = kind

    def observe(self) -> np.ndarray:
        """Returns (num_envs, 2, view, view): ones where an object of the first or second kind is in sight."""
        rows, columns = ((self.place[:, axis, None] + self._around) % self.size for axis in (0, 1))
        seen = self.field[self._copies[:, None, None], rows[:, :, None], columns[:, None, :]]
        return np.stack([seen == 1, seen == 2], axis=1).astype(np.float32)

    def draw(self, copy: int) -> np.ndarray:
        """Draws what is worth most green, the other kind red, the forager blue, and what it sees brighter."""
        best = 1 + int(self._values[2] > self._values[1])
        image = np.zeros((self.size, self.size, 3), dtype=np.uint8)
        image[self.field[copy] == best] = (46, 160, 67)
        image[self.field[copy] == 3 - best] = (207, 34, 46)
        rows, columns = ((self.place[copy, axis] + self._around) % self.size for axis in (0, 1))
        image[np.ix_(rows, columns)] = np.maximum(image[np.ix_(rows, columns)], 50)
        image[tuple(self.place[copy])] = (31, 111, 235)
        return image.repeat(12, axis=0).repeat(12, axis=1)


class ForagerEnv(SingleEnv):
    """Plays one copy of Forager."""

    VECTOR = Forager
