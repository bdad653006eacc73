import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from isorl.configs import TaskConfig, UserError
from isorl.envs.sequence import Task
from isorl.envs.spaces import image_of, unify
from isorl.envs.task_env import TaskEnv

SWITCH = spaces.Discrete(2)


def vector(size, dtype=np.float32):
    return spaces.Box(-np.inf, np.inf, (size,), dtype)


def image(*shape):
    return spaces.Box(0, 255, shape, np.uint8)


def bits(*shape):
    return spaces.Box(0, 1, shape, np.uint8)


def unified(*pairs, **options):
    return unify([f"task{number}" for number in range(len(pairs))], pairs, **options)


def apply(transforms, batch):
    for transform in transforms:
        batch = transform(batch)
    return batch


def test_equal_spaces_stay_and_cost_nothing():
    common = unified((image(4, 84, 84), SWITCH), (image(4, 84, 84), SWITCH))
    assert common.observation == image(4, 84, 84)
    assert common.from_task(image(4, 84, 84), 0) == []
    assert common.to_task(SWITCH) == []


def test_vectors_are_filled_up_with_zeros():
    common = unified((vector(2), SWITCH), (vector(4), SWITCH))
    padded = apply(common.from_task(vector(2), 0), np.array([[1, 2], [3, 4]], np.float32))
    np.testing.assert_array_equal(padded, [[1, 2, 0, 0], [3, 4, 0, 0]])
    assert padded.dtype == np.float32


def test_mixed_float_types_become_float32():
    common = unified((vector(2), SWITCH), (vector(2, np.float64), SWITCH))
    assert common.observation.dtype == np.float32
    assert apply(common.from_task(vector(2, np.float64), 1), np.ones((1, 2))).dtype == np.float32


@pytest.mark.parametrize("order", [1, -1])
def test_bytes_and_float32_become_float32_of_any_size(order):
    pairs = [(spaces.Box(0, 255, (2,), np.uint8), SWITCH), (vector(3), SWITCH)]
    common = unified(*pairs[::order])
    assert common.observation == vector(3)
    seen = apply(common.from_task(pairs[0][0], 0), np.array([[255, 1]], np.uint8))
    np.testing.assert_array_equal(seen, [[255, 1, 0]])
    assert seen.dtype == np.float32


def test_vectors_of_bytes_stay_bytes():
    common = unified((spaces.Box(0, 255, (2,), np.uint8), SWITCH), (spaces.Box(0, 9, (3,), np.uint8), SWITCH))
    assert common.observation == spaces.Box(0, 255, (3,), np.uint8)


def test_images_are_resized_to_the_largest():
    common = unified((image(3, 40, 60), SWITCH), (image(3, 50, 50), SWITCH))
    assert common.observation.shape == (3, 50, 60)
    half = np.zeros((2, 3, 40, 60), np.uint8)
    half[..., 30:] = 200
    resized = apply(common.from_task(image(3, 40, 60), 0), half)
    assert resized.shape == (2, 3, 50, 60)
    assert resized.dtype == np.uint8
    np.testing.assert_array_equal(resized[..., :30], 0)
    np.testing.assert_array_equal(resized[..., 30:], 200)


def test_bits_are_resized_by_the_nearest_pixel():
    common = unified((bits(1, 2, 2), SWITCH), (bits(1, 4, 4), SWITCH))
    small = np.array([[[[1, 0], [0, 1]]]], np.uint8)
    seen = apply(common.from_task(bits(1, 2, 2), 0), small)
    np.testing.assert_array_equal(seen, np.kron(small, np.ones((2, 2), np.uint8)))


def test_missing_channels_are_filled_up_with_zeros():
    low = spaces.Box(0.5, 1, (2, 5, 5), np.float32)
    common = unified((low, SWITCH), (spaces.Box(0.5, 1, (4, 5, 5), np.float32), SWITCH), announce=True)
    assert common.observation.shape == (6, 5, 5)
    seen = apply(common.from_task(low, 0), np.full((3, 2, 5, 5), 0.75, np.float32))
    assert [set(seen[:, channel].flat) for channel in range(6)] == [{0.75}, {0.75}, {0}, {0}, {1}, {0}]
    assert common.observation.contains(seen[0])


def test_planes_that_announce_are_as_bright_as_the_image():
    for space, bright in ((bits(1, 3, 3), 1), (image(1, 3, 3), 255)):
        common = unified((space, SWITCH), (space, SWITCH), announce=True)
        assert apply(common.from_task(space, 1), np.zeros((1, 1, 3, 3), np.uint8))[0, 2].max() == bright


CERTAIN = [
    ((10, 10, 4), "last"),
    ((4, 10, 10), "first"),
    ((7, 6, 6), "first"),
    ((210, 160, 3), "last"),
    ((3, 40, 50), "first"),
    ((1, 9, 4), "first"),  # no picture is one pixel high
]


@pytest.mark.parametrize(("shape", "channels"), CERTAIN)
def test_channels_are_found_where_they_are_certain(shape, channels):
    found, _ = image_of(spaces.Box(0, 255, shape, np.uint8), None, "game")
    assert found.shape == (shape if channels == "first" else (shape[2], *shape[:2]))


@pytest.mark.parametrize("shape", [(10, 10, 10), (4, 84, 3), (4, 4, 10), (40, 50, 7)])
def test_channels_in_doubt_are_asked_for(shape):
    space = spaces.Box(0, 1, shape, np.float32)
    with pytest.raises(UserError, match=r"'game'.*'channels: first' or 'channels: last'"):
        image_of(space, None, "game")
    assert image_of(space, "first", "game")[0].shape == shape
    assert image_of(space, "last", "game")[0].shape == (shape[2], *shape[:2])


def test_channels_of_a_vector_are_refused():
    with pytest.raises(UserError, match="'game' has 'channels: last'"):
        image_of(vector(3), "last", "game")


@pytest.mark.parametrize(
    ("given", "seen"), [("bool", "uint8"), ("uint8", "uint8"), ("float32", "float32"), ("int64", "float32")]
)
def test_images_of_any_kind_are_numbers_with_their_channels_first(given, seen):
    env = TaskEnv(Task(0, "screen", "toy/Screen-v0", 1, {"shape": (10, 10, 4), "dtype": given}), 2)
    assert (env.observation_space.shape, env.observation_space.dtype) == ((4, 10, 10), seen)
    observations = env.reset(0)
    assert (observations.dtype, observations.shape) == (seen, (2, 4, 10, 10))
    assert env.observation_space.contains(observations[0])
    env.close()


def test_discrete_actions_map_by_the_remainder():
    common = unified((vector(1), spaces.Discrete(2)), (vector(1), spaces.Discrete(6)))
    assert common.action == spaces.Discrete(6)
    mapped = apply(common.to_task(spaces.Discrete(2)), np.arange(6))
    np.testing.assert_array_equal(mapped, [0, 1, 0, 1, 0, 1])
    assert np.bincount(mapped).tolist() == [3, 3]  # uniform stays uniform


def test_continuous_actions_are_cut_and_scaled():
    low, high = np.array([0, -4], np.float32), np.array([2, 4], np.float32)
    task = spaces.Box(low, high)
    common = unified((vector(1), task), (vector(1), spaces.Box(-1, 1, (3,), np.float32)))
    assert common.action == spaces.Box(-1, 1, (3,), np.float32)
    actions = np.array([[-1, -1, 0.3], [0, 0.5, 0.3], [1, 1, 0.3]], np.float32)
    np.testing.assert_array_equal(apply(common.to_task(task), actions), [[0, -4], [1, 2], [2, 4]])
    unit = apply(common.to_task(spaces.Box(-1, 1, (2,), np.float32)), actions)
    np.testing.assert_allclose(unit, actions[:, :2], atol=1e-7)


@pytest.mark.parametrize("shape", [(), (4, 10, 10)])
def test_an_announced_task_is_appended(shape):
    space = vector(2) if shape == () else image(*shape)
    common = unified((space, SWITCH), (space, SWITCH), announce=True)
    batch = np.full((3, *space.shape), 9, space.dtype)
    seen = apply(common.from_task(space, 1), batch)
    assert seen.shape == (3, *common.observation.shape)
    np.testing.assert_array_equal(seen[:, :-2], batch)
    assert (seen[:, -2] == 0).all()
    assert (seen[:, -1] == (1 if shape == () else 255)).all()
    assert common.observation.contains(seen[0])


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([(vector(2), SWITCH), (image(3, 8, 8), SWITCH)], ("task1", "task0", "do not mix")),
        ([(image(1, 8, 8), SWITCH), (bits(1, 8, 8), SWITCH)], ("task1", "bits, bytes and floats")),
        ([(spaces.Discrete(5), SWITCH)], ("task0", "Discrete(5)", "FlattenObservation")),
        ([(spaces.Dict(a=vector(2)), SWITCH)], ("task0", "FlattenObservation")),
        ([(vector(2), SWITCH), (vector(2), spaces.Box(-1, 1, (2,)))], ("task1", "discrete and continuous")),
        ([(vector(2), spaces.MultiDiscrete([2, 3]))], ("task0", "MultiDiscrete")),
        ([(vector(2), spaces.Discrete(3, start=1))], ("task0", "from 0")),
        ([(vector(2), spaces.Box(-np.inf, np.inf, (2,)))], ("task0", "bounded")),
        ([(vector(2), spaces.Box(0, 5, (2,), np.int32))], ("task0", "int32", "vectors of floats")),
    ],
)
def test_what_does_not_fit_is_refused_with_the_task(pairs, words):
    with pytest.raises(UserError) as refusal:
        unified(*pairs)
    for word in words:
        assert word in str(refusal.value)


def test_a_padded_and_mapped_environment_returns_what_the_bare_one_returns():
    bare = gymnasium.make("CartPole-v1")
    acrobot = (spaces.Box(-1, 1, (6,), np.float32), spaces.Discrete(3))
    common = unified((bare.observation_space, bare.action_space), acrobot)
    env = TaskEnv(Task(0, "cartpole", "CartPole-v1", 100), 1, common)
    expected, _ = bare.reset(seed=3)
    observations = env.reset(3)
    rng = np.random.default_rng(0)
    for _ in range(300):
        np.testing.assert_array_equal(observations, [[*expected, 0, 0]])
        action = rng.integers(3)
        step = env.step(np.array([action]))
        expected, reward, terminated, truncated, _ = bare.step(int(action % 2))
        assert (step.rewards[0], step.terminated[0], step.truncated[0]) == (reward, terminated, truncated)
        np.testing.assert_array_equal(step.final, [[*expected, 0, 0]])
        if terminated or truncated:
            expected, _ = bare.reset()
        observations = step.observations
    env.close()


def test_images_with_channels_last_are_turned():
    env = TaskEnv(Task(0, "screen", "toy/Screen-v0", 1, {"shape": (40, 50, 3)}), 2)
    assert env.observation_space.shape == (3, 40, 50)
    assert env.reset(0).shape == (2, 3, 40, 50)


@pytest.mark.parametrize("shape", [(4, 84, 84), (1, 9, 4)])
def test_stacks_with_channels_first_stay(shape):
    env = TaskEnv(Task(0, "screen", "toy/Screen-v0", 1, {"shape": shape}), 2)
    assert env.observation_space == image(*shape)
    assert env.reset(0).shape == (2, *shape)


@pytest.mark.parametrize("channels", [1, 3, 4, 7])
def test_channels_are_moved_to_the_front(channels):
    images = np.arange(2 * 5 * 6 * channels).reshape(2, 5, 6, channels).astype(np.uint8)
    space, steps = image_of(image(5, 6, channels), "last", "game")
    assert space.shape == (channels, 5, 6)
    np.testing.assert_array_equal(steps[0](images), images.transpose(0, 3, 1, 2))
    assert image_of(SWITCH, None, "game") == (SWITCH, [])


def test_dict_observations_are_flattened_by_gymnasium():
    wrappers = ("minigrid:ImgObsWrapper", "FlattenObservation")
    pytest.importorskip("minigrid")
    import isorl.envs.sequence

    isorl.envs.sequence._with_known_id(TaskConfig("MiniGrid-Empty-5x5-v0", agent_steps=8))
    env = TaskEnv(Task(0, "grid", "MiniGrid-Empty-5x5-v0", 1, wrappers=wrappers), 2)
    assert env.reset(0).shape == (2, 147)
    env.close()


@pytest.mark.parametrize("order", [1, -1])
def test_images_of_floats_span_the_ranges_of_all(order):
    low, high = np.full((1, 8, 8), -0.5, np.float32), np.full((1, 8, 8), 0.5, np.float32)
    low[0, 0, 0], high[0, 0, 0] = -1, 2  # of one pixel alone
    pairs = [(spaces.Box(0, 0.5, (1, 8, 8)), SWITCH), (spaces.Box(low, high), SWITCH)]
    assert unified(*pairs[::order]).observation == spaces.Box(-1, 2, (1, 8, 8))
