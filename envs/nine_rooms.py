"""Nine rooms: the gridworld of Chung et al. 2024 (Parseval Regularization for Continual Reinforcement Learning).

A 15x15 grid of nine 5x5 rooms joined by doors. The agent sees only its own cell (one-hot, 225); the goal is hidden
and is what changes from task to task. Every step costs 0.01 times the shortest-path distance of the new cell to the
goal; reaching it gives +3 and ends the episode, which lasts 100 agent steps at most. The start room opens on one
side only.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from gymnasium import spaces

from isorl.envs.numpy_env import NumpyVectorEnv, SingleEnv

SIZE, ROOM = 15, 5
START = (7, 7)
MAX_STEPS = 100
GOAL_REWARD, DISTANCE_COST = 3.0, 0.01
MOVES = ((0, 0), (1, 0), (-1, 0), (0, -1), (0, 1))  # stay, right, left, down, up as (dx, dy)
DOORS = (
    *(((4, 2), (5, 2)), ((4, 7), (5, 7)), ((4, 12), (5, 12)), ((9, 2), (10, 2)), ((9, 12), (10, 12))),
    *(((2, 4), (2, 5)), ((12, 4), (12, 5)), ((2, 9), (2, 10)), ((12, 9), (12, 10))),
)


def _neighbour(x: int, y: int, move: tuple[int, int]) -> tuple[int, int]:
    """The cell that `move` leads to: a border, or a wall without a door, keeps the agent where it is."""
    nx, ny = x + move[0], y + move[1]
    if not (0 <= nx < SIZE and 0 <= ny < SIZE):
        return x, y
    same_room = (x // ROOM, y // ROOM) == (nx // ROOM, ny // ROOM)
    if same_room or ((x, y), (nx, ny)) in DOORS or ((nx, ny), (x, y)) in DOORS:
        return nx, ny
    return x, y


def _cell(x: int, y: int) -> int:
    return x * SIZE + y


NEXT_CELL = np.array(
    [[_cell(*_neighbour(x, y, move)) for move in MOVES] for x in range(SIZE) for y in range(SIZE)]
)
"""(225, 5): the cell after each action."""


def distances_to(goal: int) -> np.ndarray:
    """Returns (225,) steps on the shortest path from every cell to `goal` (moves reverse: breadth-first search)."""
    distance = np.full(SIZE * SIZE, -1)
    distance[goal] = 0
    frontier = deque([goal])
    while frontier:
        cell = frontier.popleft()
        for neighbour in NEXT_CELL[cell]:
            if distance[neighbour] < 0:
                distance[neighbour] = distance[cell] + 1
                frontier.append(int(neighbour))
    return distance


def goal_cells() -> list[tuple[int, int]]:
    """Returns the 125 cells outside the start room and outside the three rooms on the left (x <= 4)."""
    start_room = (START[0] // ROOM, START[1] // ROOM)
    return [(x, y) for x in range(ROOM, SIZE) for y in range(SIZE) if (x // ROOM, y // ROOM) != start_room]


def draw_goal(seed: int, index: int = 0) -> tuple[int, int]:
    """Returns goal number `index` of a random order of all goals: indices below 125 give different ones."""
    cells = goal_cells()
    order = np.random.default_rng(seed).permutation(len(cells))
    return cells[order[index % len(cells)]]


class NineRooms(NumpyVectorEnv):
    """Plays `num_envs` copies; deterministic, so seeds change nothing.

    Args:
        num_envs: number of copies.
        goal: cell (x, y), each 0 to 14; drawn when not given.
        goal_seed: seed of the random order of goals.
        goal_index: which goal of that order.
    """

    STATE = ("cells",)

    def __init__(
        self,
        num_envs: int = 1,
        goal: tuple[int, int] | None = None,
        goal_seed: int = 0,
        goal_index: int = 0,
    ) -> None:
        observations = spaces.Box(0.0, 1.0, (SIZE * SIZE,), np.float32)
        super().__init__(num_envs, observations, spaces.Discrete(len(MOVES)), MAX_STEPS)
        self.goal = draw_goal(goal_seed, goal_index) if goal is None else _checked_goal(goal)
        self._goal_cell = _cell(*self.goal)
        self._reward = (-DISTANCE_COST * distances_to(self._goal_cell)).astype(np.float32)
        self._reward[self._goal_cell] += GOAL_REWARD
        self._one_hot = np.eye(SIZE * SIZE, dtype=np.float32)
        self.cells = np.full(num_envs, _cell(*START))

    def begin(self, copies: np.ndarray) -> None:
        """Puts the agent back into the centre."""
        self.cells[copies] = _cell(*START)

    def advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Makes one step on the grid."""
        self.cells = NEXT_CELL[self.cells, actions]
        return self._reward[self.cells], self.cells == self._goal_cell

    def observe(self) -> np.ndarray:
        """Returns the cells one-hot, (num_envs, 225)."""
        return self._one_hot[self.cells]

    def draw(self, copy: int, scale: int = 16) -> np.ndarray:
        """Draws (240, 240, 3): rooms grey, walls dark, goal green, agent blue; y points up."""
        image = np.full((SIZE * scale, SIZE * scale, 3), 235, dtype=np.uint8)
        agent = int(self.cells[copy])
        for cell in range(SIZE * SIZE):
            x, y = divmod(cell, SIZE)
            patch = image[x * scale : (x + 1) * scale, y * scale : (y + 1) * scale]
            if cell in (self._goal_cell, agent):
                patch[2:-2, 2:-2] = (46, 160, 67) if cell == self._goal_cell else (31, 111, 235)
            right, _, _, up = NEXT_CELL[cell, 1:]
            if x < SIZE - 1 and right == cell:
                patch[-1:] = 60
            if y < SIZE - 1 and up == cell:
                patch[:, -1:] = 60
        return image.transpose(1, 0, 2)[::-1].copy()


def _checked_goal(goal: tuple[int, int]) -> tuple[int, int]:
    x, y = goal
    if not (0 <= x < SIZE and 0 <= y < SIZE):
        raise ValueError(f"The goal {goal} lies outside the grid: x and y go from 0 to {SIZE - 1}.")
    return int(x), int(y)


class NineRoomsEnv(SingleEnv):
    """Plays one copy of NineRooms."""

    VECTOR = NineRooms
