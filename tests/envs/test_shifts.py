import numpy as np
import pytest
from gymnasium import spaces

from isorl.configs import UserError
from isorl.envs.sequence import Task
from isorl.envs.shifts import SHIFTS, make_shift
from isorl.envs.task_env import TaskEnv

VECTOR = spaces.Box(-5, 5, (6,), np.float32)
IMAGE = spaces.Box(0, 255, (4, 8, 10), np.uint8)
ACTIONS = spaces.Discrete(5)
OPTIONS = {
    "rotate_observation": {"seed": 1},
    "offset_observation": {"seed": 1, "std": 2.0},
    "permute_observation": {"seed": 1},
    "flip_observation": {"direction": "vertical"},
    "invert_observation": {},
    "noisy_observation": {"seed": 1, "std": 3.0},
    "permute_actions": {"seed": 1},
}


def shift(name, space, **options):
    return make_shift(space, ACTIONS, {"name": name, **OPTIONS[name], **options})


def samples(space, n=20):
    space.seed(0)
    return np.stack([space.sample() for _ in range(n)])


def test_every_shift_is_tested_here():
    assert set(SHIFTS) == set(OPTIONS)


NOT_FOR = {"vector": {"flip_observation"}, "image": {"rotate_observation", "offset_observation"}}


@pytest.mark.parametrize("name", SHIFTS)
@pytest.mark.parametrize("kind", ["vector", "image"])
def test_contract(name, kind):
    """Same seed, same shift; the result lies in the declared space; the input is left as it was."""
    space = VECTOR if kind == "vector" else IMAGE
    if name in NOT_FOR[kind]:
        with pytest.raises(UserError, match=name):
            shift(name, space)
        return
    one, other = shift(name, space), shift(name, space)
    batch = samples(space)
    before = batch.copy()
    seen = one.observations(batch)
    np.testing.assert_array_equal(batch, before)
    np.testing.assert_array_equal(seen, other.observations(batch))
    assert seen.dtype == one.observation_space.dtype
    assert all(one.observation_space.contains(row) for row in seen)
    np.testing.assert_array_equal(one.actions(np.arange(5)), other.actions(np.arange(5)))


def test_rotations_are_orthogonal_proper_and_lose_nothing():
    rotate = shift("rotate_observation", VECTOR)
    rotation = rotate.rotation.astype(np.float64)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(6), atol=1e-6)
    assert np.linalg.det(rotation) == pytest.approx(1, abs=1e-5)
    batch = samples(VECTOR)
    seen = rotate.observations(batch)
    np.testing.assert_allclose(seen @ rotation, batch, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(seen, axis=1), np.linalg.norm(batch, axis=1), rtol=1e-5)


def test_rotations_are_uniform():
    """Each entry of a Haar rotation has mean 0 and variance 1/d."""
    drawn = np.stack([shift("rotate_observation", VECTOR, seed=seed).rotation for seed in range(2000)])
    np.testing.assert_allclose(drawn.mean(axis=0), 0, atol=5 * (6 * 2000) ** -0.5)
    np.testing.assert_allclose(drawn.var(axis=0), 1 / 6, rtol=0.2)


def test_a_permutation_treats_every_channel_alike():
    permute = shift("permute_observation", IMAGE)
    batch = samples(IMAGE)
    seen = permute.observations(batch)
    flat, expected = seen.reshape(20, 4, 80), batch.reshape(20, 4, 80)
    np.testing.assert_array_equal(np.sort(flat), np.sort(expected))
    for channel in range(4):
        np.testing.assert_array_equal(flat[:, channel], expected[:, channel, permute.permutation])


def test_flip_and_invert_undo_themselves():
    batch = samples(IMAGE)
    for name in ("flip_observation", "invert_observation"):
        turn = shift(name, IMAGE)
        seen = turn.observations(batch)
        assert not np.array_equal(seen, batch)
        np.testing.assert_array_equal(turn.observations(seen), batch)
    np.testing.assert_array_equal(shift("invert_observation", IMAGE).observations(batch), 255 - batch)
    vertical = shift("flip_observation", IMAGE).observations(batch)
    np.testing.assert_array_equal(vertical, batch[:, :, ::-1])


def test_noise_has_the_stated_size_and_an_offset_is_constant():
    wide = spaces.Box(-np.inf, np.inf, (1000,), np.float32)
    noise = shift("noisy_observation", wide).observations(np.zeros((50, 1000), np.float32))
    assert noise.std() == pytest.approx(3.0, rel=0.02)
    offset = shift("offset_observation", wide).observations(np.zeros((2, 1000), np.float32))
    np.testing.assert_array_equal(offset[0], offset[1])
    assert offset.std() == pytest.approx(2.0, rel=0.1)


def test_permuted_actions_reach_the_environment():
    kwargs = {"actions": 5, "length": 50}
    plain = Task(0, "plain", "toy/Counter-v0", 1, kwargs)
    permuted = Task(
        0, "permuted", "toy/Counter-v0", 1, kwargs, shifts=({"name": "permute_actions", "seed": 3},)
    )
    env = TaskEnv(permuted, 5)
    env.reset(0)
    taken = env.step(np.arange(5)).observations[:, 1]
    assert sorted(taken) == [0, 1, 2, 3, 4]
    assert list(taken) != [0, 1, 2, 3, 4]
    other = TaskEnv(plain, 5)
    other.reset(0)
    np.testing.assert_array_equal(other.step(taken.astype(int)).observations[:, 1], taken)


def test_several_shifts_act_in_order():
    shifts = ({"name": "invert_observation"}, {"name": "permute_observation", "seed": 2})
    env = TaskEnv(Task(0, "screen", "toy/Screen-v0", 1, {"value": 5}, shifts=shifts), 1)
    np.testing.assert_array_equal(env.reset(0), 250)


@pytest.mark.parametrize(
    ("options", "space", "words"),
    [
        ({"name": "rotate_observations", "seed": 1}, VECTOR, "Did you mean 'rotate_observation'"),
        ({"name": "rotate_observation", "sead": 1}, VECTOR, "sead"),
        ({"name": "rotate_observation"}, VECTOR, "seed"),
        ({"name": "rotate_observation", "seed": 1}, IMAGE, "vectors"),
        ({"name": "flip_observation"}, VECTOR, "images"),
        ({"name": "flip_observation", "direction": "up"}, IMAGE, "direction"),
        ({"name": "invert_observation"}, spaces.Box(-np.inf, np.inf, (3,)), "bounded"),
        ({"name": "permute_observation", "seed": 1}, spaces.Discrete(4), "vectors or images"),
        ({"name": "noisy_observation", "seed": 1, "std": -1}, VECTOR, "std"),
        ({"name": "rotate_observation", "seed": -1}, VECTOR, "rotate_observation"),
        ({}, VECTOR, "There is no shift 'None'"),
    ],
)
def test_wrong_options_are_refused(options, space, words):
    with pytest.raises(UserError, match=words):
        make_shift(space, ACTIONS, options)


def test_actions_that_cannot_be_permuted():
    with pytest.raises(UserError, match="discrete"):
        make_shift(VECTOR, spaces.Box(-1, 1, (2,)), {"name": "permute_actions", "seed": 0})
