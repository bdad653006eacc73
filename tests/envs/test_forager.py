"""The forager's field: what is seen, collected and grown again, without a beginning or an end."""

import numpy as np
import pytest

from isorl.envs.forager import MOVES, Forager


def placed(place, objects, **options):
    """One copy at `place` on a field of 5 x 5 with {(row, column): kind} and nothing else."""
    env = Forager(1, size=5, view=3, **options)
    env.reset(seed=0)
    env.field[:] = 0
    for where, kind in objects.items():
        env.field[(0, *where)] = kind
    env.place[0] = place
    return env


def test_it_sees_the_square_around_it_across_the_edges():
    env = placed((0, 0), {(4, 4): 1, (0, 1): 2, (2, 2): 1})
    first, second = env.observe()[0]
    np.testing.assert_array_equal(first, [[1, 0, 0], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(second, [[0, 0, 0], [0, 0, 1], [0, 0, 0]])


@pytest.mark.parametrize(("action", "where"), list(enumerate([(4, 0), (0, 1), (1, 0), (0, 4)])))
def test_moves_lead_across_the_edges_and_collect(action, where):
    env = placed((0, 0), {where: 2}, values=[1.0, -0.5])
    _, rewards, terminated, truncated, _ = env.step(np.array([action]))
    assert env.place[0].tolist() == list(where)
    assert (rewards[0], terminated[0], truncated[0]) == (-0.5, False, False)
    assert np.count_nonzero(env.field == 2) == 1
    assert env.field[(0, *where)] == 0  # grown again, but elsewhere
    assert len(MOVES) == env.single_action_space.n


def test_a_window_ends_and_nothing_is_reset():
    env = Forager(2, window=4)
    env.reset(seed=1)
    for step in range(12):
        field, place = env.field.copy(), env.place.copy()
        observations, _, terminated, truncated, infos = env.step(np.array([0, 1]))
        assert truncated.tolist() == [step % 4 == 3] * 2
        assert not terminated.any()
        np.testing.assert_array_equal(env.place, (place + MOVES[[0, 1]]) % env.size)
        assert np.count_nonzero(env.field != field) <= 4  # at most one object has moved in each copy
        if truncated.any():
            np.testing.assert_array_equal(infos["final_obs"], observations)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"view": 4}, "'view' is 4; it must be odd"),
        ({"view": 17}, "at most 'size', which is 15"),
        ({"density": 0.0}, "needs some objects"),
        ({"density": 1.0}, "some room"),
        ({"values": [1.0]}, "two numbers"),
        ({"window": 0}, "at least 1"),
    ],
)
def test_bad_fields(options, message):
    with pytest.raises(ValueError, match=message):
        Forager(**options)


def test_what_is_worth_most_is_drawn_green_and_the_other_red():
    env = placed((0, 0), {(2, 2): 1, (3, 2): 2})
    best = 1 + int(env._values[2] > env._values[1])
    image = env.draw(0)
    colours = {kind: tuple(image[12 * row, 24]) for kind, row in ((1, 2), (2, 3))}
    assert colours == {best: (46, 160, 67), 3 - best: (207, 34, 46)}
    assert tuple(image[0, 0]) == (31, 111, 235)
