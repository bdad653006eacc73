"""Nine rooms against facts worked out by hand and a slow, plain twin."""

import numpy as np
import pytest

from isorl.configs import SequenceConfig, TaskConfig
from isorl.envs import Sequence
from isorl.envs.nine_rooms import NineRooms, distances_to, draw_goal, goal_cells

STAY, RIGHT, LEFT, DOWN, UP = range(5)


def walk(goal, actions):
    """(cell (x, y), reward, terminated, truncated) after each action of one agent."""
    env = NineRooms(1, goal=goal)
    env.reset()
    steps = []
    for action in actions:
        _, rewards, terminated, truncated, infos = env.step(np.array([action]))
        cell = int(infos["final_obs"][0].argmax()) if infos else int(env.cells[0])
        steps.append((divmod(cell, 15), float(rewards[0]), bool(terminated[0]), bool(truncated[0])))
    return steps


def twin_neighbours(x, y):
    """Cells one step away, straight from the description."""
    doors = "4,2-5,2 4,7-5,7 4,12-5,12 9,2-10,2 9,12-10,12 2,4-2,5 12,4-12,5 2,9-2,10 12,9-12,10"
    pairs = [tuple(tuple(map(int, cell.split(","))) for cell in door.split("-")) for door in doors.split()]
    for nx, ny in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)):
        if not (0 <= nx <= 14 and 0 <= ny <= 14):
            continue
        crosses = nx // 5 != x // 5 or ny // 5 != y // 5
        if not crosses or ((x, y), (nx, ny)) in pairs or ((nx, ny), (x, y)) in pairs:
            yield nx, ny


def twin_distances(goal):
    """Bellman-Ford: relax every edge until nothing changes."""
    distance = {(x, y): np.inf for x in range(15) for y in range(15)}
    distance[goal] = 0
    changed = True
    while changed:
        changed = False
        for cell in distance:
            shortest = min((distance[other] + 1 for other in twin_neighbours(*cell)), default=np.inf)
            if shortest < distance[cell]:
                distance[cell], changed = shortest, True
    return distance


@pytest.mark.parametrize("goal", [(7, 7), (14, 14), (10, 7), (5, 0), (12, 3)])
def test_distances_equal_the_twins(goal):
    ours = distances_to(goal[0] * 15 + goal[1])
    for (x, y), expected in twin_distances(goal).items():
        assert ours[x * 15 + y] == expected


def test_the_start_room_opens_on_the_left_only():
    assert walk((14, 0), [RIGHT] * 4)[-1][0] == (9, 7)  # no door at (9, 7)-(10, 7)
    assert walk((14, 0), [LEFT] * 4)[-1][0] == (3, 7)  # the door at (4, 7)-(5, 7)
    assert walk((14, 0), [UP] * 4)[-1][0] == (7, 9)
    assert walk((14, 0), [DOWN] * 4)[-1][0] == (7, 5)


def test_rewards_by_hand():
    # from (7, 7) the goal (5, 7) is two steps to the left
    steps = walk((5, 7), [RIGHT, LEFT, LEFT, STAY, LEFT])
    assert [step[1] for step in steps] == pytest.approx([-0.03, -0.02, -0.01, -0.01, 3.0])
    assert [step[2] for step in steps] == [False] * 4 + [True]


def test_an_episode_is_truncated_after_100_steps():
    steps = walk((14, 14), [STAY] * 101)
    assert [number for number, step in enumerate(steps) if step[3]] == [99]
    assert not any(step[2] for step in steps)


def test_reaching_the_goal_at_step_100_is_no_truncation():
    *_, last = walk((6, 7), [STAY] * 99 + [LEFT])
    assert last[2:] == (True, False)


def test_copies_are_independent_and_restart_at_once():
    env = NineRooms(3, goal=(6, 7))
    env.reset()
    observations, rewards, terminated, _, infos = env.step(np.array([LEFT, RIGHT, STAY]))
    assert terminated.tolist() == [True, False, False]
    assert infos["final_obs"][0].argmax() == 6 * 15 + 7
    assert observations.argmax(axis=1).tolist() == [7 * 15 + 7, 8 * 15 + 7, 7 * 15 + 7]
    np.testing.assert_allclose(rewards, [3, -0.02, -0.01])
    assert (observations.sum(axis=1) == 1).all()


def test_the_picture_shows_walls_goal_and_agent():
    """Of every cell its own 4 x 4 pixels, y upwards; a wall is the last line of the lower or left of two cells."""
    env = NineRooms(2, goal=(0, 1))
    env.reset(seed=0)
    env.cells[1] = 14 * 15 + 14
    image = env.draw(1, scale=8)
    assert image.shape == (120, 120, 3)
    upwards = image[::-1].transpose(1, 0, 2)  # [x, y]
    for x in range(15):
        for y in range(15):
            patch = upwards[8 * x : 8 * x + 8, 8 * y : 8 * y + 8]
            inner = {(0, 1): (46, 160, 67), (14, 14): (31, 111, 235)}.get((x, y), (235, 235, 235))
            assert (patch[2:-2, 2:-2] == inner).all()
            assert (patch[:2, :-1] == 235).all()
            open_to = list(twin_neighbours(x, y))
            wall_right = x < 14 and (x + 1, y) not in open_to
            wall_up = y < 14 and (x, y + 1) not in open_to
            assert (patch[-1, :-1] == 60).all() == wall_right
            assert (patch[:-1, -1] == 60).all() == wall_up
            assert (patch[-2, :2] == 235).all()


def test_goals_lie_where_they_may_and_are_different_while_they_last():
    cells = goal_cells()
    assert len(cells) == 125
    assert all(x >= 5 and not (5 <= x <= 9 and 5 <= y <= 9) for x, y in cells)
    assert {draw_goal(0, index) for index in range(125)} == set(cells)
    assert draw_goal(0, 125) == draw_goal(0, 0)
    assert draw_goal(0, 0) != draw_goal(1, 0)


@pytest.mark.parametrize("seed", range(5))
def test_no_two_tasks_of_a_sequence_share_a_goal(seed):
    kwargs = {"goal_seed": "sequence_seed", "goal_index": "task_index"}
    entry = TaskConfig("isorl/NineRooms-v0", agent_steps=1, count=20, kwargs=kwargs)
    tasks = Sequence.from_config(SequenceConfig("test", [entry]), seed).tasks
    assert len({NineRooms(1, **task.kwargs).goal for task in tasks}) == 20


def test_a_goal_outside_the_grid():
    with pytest.raises(ValueError, match="outside the grid"):
        NineRooms(1, goal=(15, 0))
