"""Nine rooms: the gridworld of Chung et al. 2024 (Parseval Regularization for Continual Reinforcement Learning).

A 15x15 grid of nine 5x5 rooms joined by doors. The agent sees only its own cell (one-hot, 225); the goal is hidden
and is what changes from task to task. Every step costs 0.01 times the shortest-path distance of the new cell to the
goal; reaching it gives +3 and ends the episode, which lasts 100 agent steps at most. The start room opens on one
side only.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

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
    """(225,) steps on the shortest path from every cell to `goal` (moves are reversible: breadth-first search)."""
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


def draw_goal(seed: int) -> tuple[int, int]:
    """A goal outside the start room and outside the three rooms on the left (x <= 4)."""
    start_room = (START[0] // ROOM, START[1] // ROOM)
    cells = [
        (x, y)
        for x in range(ROOM, SIZE)
        for y in range(SIZE)
        if (x // ROOM, y // ROOM) != start_room
    ]
    return cells[np.random.default_rng(seed).integers(len(cells))]


class NineRoomsVectorEnv(VectorEnv):
    """`num_envs` copies in numpy, with same-step autoreset.

    Args:
        num_envs: number of copies.
        goal: cell (x, y), each 0 to 14; drawn from `goal_seed` when not given.
        goal_seed: seed of the drawn goal.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int = 1, goal: tuple[int, int] | None = None, goal_seed: int = 0) -> None:
        self.num_envs = num_envs
        self.single_observation_space = spaces.Box(0.0, 1.0, (SIZE * SIZE,), np.float32)
        self.single_action_space = spaces.Discrete(len(MOVES))
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
        self.goal = _checked_goal(goal) if goal is not None else draw_goal(goal_seed)
        self._goal_cell = _cell(*self.goal)
        self._reward = (-DISTANCE_COST * distances_to(self._goal_cell)).astype(np.float32)
        self._reward[self._goal_cell] += GOAL_REWARD
        self._one_hot = np.eye(SIZE * SIZE, dtype=np.float32)
        self.cells = np.full(num_envs, _cell(*START))
        self._steps = np.zeros(num_envs, dtype=np.int64)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """All agents back to the centre. The environment is deterministic, so the seed changes nothing."""
        self.cells[:] = _cell(*START)
        self._steps[:] = 0
        return self._one_hot[self.cells], {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """(num_envs,) actions -> observations (num_envs, 225), rewards, terminated, truncated, infos."""
        self.cells = NEXT_CELL[self.cells, actions]
        self._steps += 1
        rewards = self._reward[self.cells]
        terminated = self.cells == self._goal_cell
        truncated = (self._steps >= MAX_STEPS) & ~terminated
        infos: dict[str, Any] = {}
        done = terminated | truncated
        if done.any():
            infos["final_obs"] = self._one_hot[self.cells]
            self.cells[done] = _cell(*START)
            self._steps[done] = 0
        return self._one_hot[self.cells], rewards, terminated, truncated, infos


class NineRooms(gymnasium.Env):
    """One copy with the usual single-environment interface, and a drawing."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self, goal: tuple[int, int] | None = None, goal_seed: int = 0, render_mode: str | None = None
    ) -> None:
        self._vector = NineRoomsVectorEnv(1, goal, goal_seed)
        self.goal = self._vector.goal
        self.observation_space = self._vector.single_observation_space
        self.action_space = self._vector.single_action_space
        self.render_mode = render_mode
        self._drawn_cell = _cell(*START)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """The agent back to the centre."""
        super().reset(seed=seed)
        observations, _ = self._vector.reset()
        self._drawn_cell = _cell(*START)
        return observations[0], {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One move."""
        observations, rewards, terminated, truncated, infos = self._vector.step(np.array([action]))
        observation = infos["final_obs"][0] if infos else observations[0]
        self._drawn_cell = int(observation.argmax())
        return observation, float(rewards[0]), bool(terminated[0]), bool(truncated[0]), {}

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """(240, 240, 3) uint8: rooms grey, walls dark, goal green, agent blue; y points up."""
        return None if self.render_mode is None else draw(self._drawn_cell, _cell(*self.goal))


def draw(agent: int, goal: int, scale: int = 16) -> np.ndarray:
    """An RGB picture of the grid, `scale` pixels per cell."""
    image = np.full((SIZE * scale, SIZE * scale, 3), 235, dtype=np.uint8)
    for cell in range(SIZE * SIZE):
        x, y = divmod(cell, SIZE)
        patch = image[x * scale : (x + 1) * scale, y * scale : (y + 1) * scale]
        if cell in (goal, agent):
            patch[2:-2, 2:-2] = (46, 160, 67) if cell == goal else (31, 111, 235)
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
