"""Catch and Rain, followed by hand and against expectations that can be computed."""

import numpy as np
import pytest

from isorl.envs.falling import Catch, Rain

LEFT, STAY, RIGHT = range(3)


def test_catch_by_hand():
    env = Catch(2, size=5)
    env.reset(seed=0)
    env.ball[:], env.paddle[:] = [[0, 3], [0, 0]], [1, 4]
    board = env.observe()
    assert board.shape == (2, 1, 5, 5)
    assert board[0, 0, 0, 3] == board[0, 0, 4, 1] == 1
    assert board[0].sum() == 2
    results = [env.step(np.array([action, RIGHT])) for action in (RIGHT, RIGHT, STAY, STAY)]
    assert [result[2].tolist() for result in results] == [[False, False]] * 3 + [[True, True]]
    np.testing.assert_array_equal(
        results[-1][1], [1, -1]
    )  # moved 1 -> 3 under the ball; stayed at 4, ball at 0
    final = results[-1][4]["final_obs"]
    assert final[0].sum() == 1  # ball and paddle in one place
    assert final[1, 0, 4].tolist() == [1, 0, 0, 0, 1]
    assert not any(result[3].any() for result in results)


def test_catch_can_always_be_won_by_following_the_ball():
    env = Catch(50, size=7)
    env.reset(seed=1)
    rewards = np.zeros(50)
    for _ in range(12):  # two episodes: the ball falls six rows, the paddle has at most six columns to go
        _, reward, *_ = env.step(1 + np.sign(env.ball[:, 1] - env.paddle))
        rewards += reward
    np.testing.assert_array_equal(rewards, 2)


def test_rain_by_hand():
    env = Rain(1, size=5)
    env.reset(seed=0)
    env.foods[:], env.rocks[:] = False, False
    env.foods[0, 3, 1] = env.rocks[0, 2, 2] = True
    _, reward, *_ = env.step(np.array([LEFT]))  # to column 1, the food arrives
    assert reward[0] == 1
    assert env.rocks[0, 3, 2]
    _, reward, *_ = env.step(np.array([RIGHT]))  # to column 2, the rock arrives
    assert reward[0] == -1
    assert not env.foods[0, -1].any()


def test_rain_falls_as_stated_and_is_truncated_after_60_steps():
    env = Rain(2000)
    assert env.single_observation_space.shape == (1, 15, 7)  # 105 inputs
    env.reset(seed=0)
    entered = []
    for step in range(1, 61):
        observation, _, terminated, truncated, infos = env.step(np.full(2000, STAY))
        if step < 60:
            assert not truncated.any()
            entered.append([env.foods[:, 0].any(axis=1).mean(), env.rocks[:, 0].any(axis=1).mean()])
    assert truncated.all()
    assert not terminated.any()
    assert infos["final_obs"].shape == (2000, 1, 15, 7)
    assert observation[:, 0, :14].sum() == 0  # an empty sky
    np.testing.assert_allclose(np.mean(entered, axis=0), [0.3, 0.3], atol=0.01)


def test_what_enters_has_a_column_of_its_own_in_every_copy():
    env = Rain(2000, size=5)
    env.reset(seed=0)
    env.step(np.full(2000, STAY))
    columns = env.foods[:, 0].sum(0)
    assert columns.sum() > 500
    np.testing.assert_allclose(columns / columns.sum(), 1 / 5, atol=0.06)


def test_a_random_players_return():
    """Rain: a food and a rock arrive at a random column equally often, so a random player expects nothing."""
    env = Rain(3000)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    total = sum(env.step(rng.integers(3, size=3000))[1] for _ in range(60))
    # things arrive in 0.6 of 54 steps, under the player 1 in 7: variance 60 * 0.6 / 7 = 5 at most
    assert abs(total.mean()) < 4 * (5 / 3000) ** 0.5


@pytest.mark.parametrize("make", [Catch, Rain])
def test_too_small_a_board(make):
    with pytest.raises(ValueError, match="at least 3"):
        make(1, size=2)
    assert make(1, size=3).reset(seed=0)[0].shape[-1] == 3
