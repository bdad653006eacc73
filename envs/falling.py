"""Two tiny image tasks in numpy on which plasticity loss shows within minutes: Catch and Rain.

Both are meant to be made new by permuting pixels and actions (`envs/shifts.py`). Observations are binary float
images (1, H, W), small enough that the policies flatten them. Actions: left, stay, right.
"""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from isorl.envs.numpy_env import NumpyVectorEnv, SingleEnv

LEFT_STAY_RIGHT = spaces.Discrete(3)


class Catch(NumpyVectorEnv):
    """Drops a ball from a random column; the paddle in the bottom row catches it (+1) or misses it (-1).

    Osband et al. 2020 (Behaviour Suite for Reinforcement Learning), on a square board and with a random start of
    the paddle. An episode takes size - 1 agent steps.

    Args:
        num_envs: number of copies.
        size: rows and columns of the board, at least 3.
    """

    STATE = ("ball", "paddle")

    def __init__(self, num_envs: int = 1, size: int = 7) -> None:
        _check_size(size)
        super().__init__(num_envs, _binary(size, size), LEFT_STAY_RIGHT, max_steps=size)
        self.size = size
        self.ball = np.zeros((num_envs, 2), dtype=np.int64)  # row, column
        self.paddle = np.zeros(num_envs, dtype=np.int64)
        self._copies = np.arange(num_envs)

    def begin(self, copies: np.ndarray) -> None:
        """Puts a ball into the top row, the paddle anywhere."""
        columns = self.np_random.integers(self.size, size=(2, int(copies.sum())))
        self.ball[copies, 0] = 0
        self.ball[copies, 1], self.paddle[copies] = columns

    def advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Moves the paddle, then the ball down by one row."""
        self.paddle = np.clip(self.paddle + actions - 1, 0, self.size - 1)
        self.ball[:, 0] += 1
        landed = self.ball[:, 0] == self.size - 1
        caught = np.where(self.ball[:, 1] == self.paddle, 1.0, -1.0)
        return (landed * caught).astype(np.float32), landed

    def observe(self) -> np.ndarray:
        """Returns (num_envs, 1, size, size): ones at the ball and at the paddle."""
        board = np.zeros((self.num_envs, 1, self.size, self.size), dtype=np.float32)
        board[self._copies, 0, self.ball[:, 0], self.ball[:, 1]] = 1
        board[self._copies, 0, -1, self.paddle] = 1
        return board

    def draw(self, copy: int) -> np.ndarray:
        """Draws the board, white on black."""
        return _enlarged(np.repeat(self.observe()[copy, 0, :, :, None] * 255, 3, axis=2))


class Rain(NumpyVectorEnv):
    """Drops foods (+1) and rocks (-1) on a player in the bottom row, for 60 agent steps (then truncated).

    At each step, with probability 0.6, a food or a rock (equally likely) enters the top row at a random column.

    Args:
        num_envs: number of copies.
        size: rows and columns, at least 3.
    """

    STATE = ("foods", "rocks", "player")
    MAX_STEPS, ENTERS = 60, 0.6

    def __init__(self, num_envs: int = 1, size: int = 7) -> None:
        _check_size(size)
        super().__init__(num_envs, _binary(2 * size + 1, size), LEFT_STAY_RIGHT, self.MAX_STEPS)
        self.size = size
        self._board = np.zeros((num_envs, 1, 2 * size + 1, size), dtype=np.float32)
        self._sky = self._board[:, 0, :-1].reshape(num_envs, 2, size, size)
        self.foods, self.rocks = self._sky[:, 0], self._sky[:, 1]
        self.player = np.zeros(num_envs, dtype=np.int64)
        self._copies = np.arange(num_envs)
        self._chances = np.array([[self.ENTERS], [0.5]])
        self._moved = np.clip(np.arange(size)[:, None] + [-1, 0, 1], 0, size - 1)
        """(size, 3): the player's column after each action."""

    def begin(self, copies: np.ndarray) -> None:
        """Empties the sky and puts the player into the middle."""
        self._sky[copies] = 0
        self.player[copies] = self.size // 2

    def advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Moves the player, then everything down by one row; something new may enter."""
        self.player = self._moved[self.player, actions]
        self._sky[:, :, 1:] = self._sky[:, :, :-1]
        self._sky[:, :, 0] = 0
        enters, is_food = self.np_random.random((2, self.num_envs)) < self._chances
        column = self.np_random.integers(self.size, size=self.num_envs)
        self._sky[self._copies, 1 - is_food, 0, column] = enters
        food, rock = self._sky[self._copies, :, -1, self.player].T
        return food - rock, np.zeros(self.num_envs, dtype=bool)

    def observe(self) -> np.ndarray:
        """Returns (num_envs, 1, 2 size + 1, size): the foods, below them the rocks, then the player's row."""
        self._board[:, 0, -1] = 0
        self._board[self._copies, 0, -1, self.player] = 1
        return self._board.copy()

    def draw(self, copy: int) -> np.ndarray:
        """Draws foods green, rocks grey, the player blue."""
        image = np.full((self.size, self.size, 3), 20, dtype=np.uint8)
        image[self.foods[copy] > 0] = (46, 160, 67)
        image[self.rocks[copy] > 0] = 150
        image[-1, self.player[copy]] = (31, 111, 235)
        return _enlarged(image)


def _binary(height: int, width: int) -> spaces.Box:
    return spaces.Box(0.0, 1.0, (1, height, width), np.float32)


def _check_size(size: int) -> None:
    if size < 3:
        raise ValueError(f"'size' is {size}; the board needs at least 3 rows and columns.")


def _enlarged(image: np.ndarray, scale: int = 24) -> np.ndarray:
    return image.astype(np.uint8).repeat(scale, axis=0).repeat(scale, axis=1)


class CatchEnv(SingleEnv):
    """Plays one copy of Catch."""

    VECTOR = Catch


class RainEnv(SingleEnv):
    """Plays one copy of Rain."""

    VECTOR = Rain
