"""Streams by hand: what is shown, what is paid, what is held out."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from isorl.configs import UserError
from isorl.envs import data
from isorl.envs.data import DataSet, Part
from isorl.envs.stream import Stream

pytestmark = pytest.mark.usefixtures("_toy")


def shown(observations):
    """Which samples the images are."""
    return observations[:, 0, 0, 0].astype(int).tolist()


def test_a_pass_shows_every_sample_once_and_the_next_in_another_order():
    stream = Stream(4, "toy")
    observations, _ = stream.reset(seed=0)
    seen = shown(observations)
    for _ in range(5):
        observations, *_ = stream.step(np.zeros(4, int))
        seen += shown(observations)
    first, second = seen[:12], seen[12:]
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_a_batch_may_reach_into_the_next_pass():
    stream = Stream(5, "toy")
    seen = shown(stream.reset(seed=0)[0])
    for _ in range(11):
        seen += shown(stream.step(np.zeros(5, int))[0])
    assert np.bincount(seen).tolist() == [5] * 12


def test_rewards_are_the_online_accuracy():
    """Copy 0 is always right, copy 1 never: returns 1 and 0 over an episode of 3."""
    stream = Stream(2, "toy", episode_length=3)
    observations, _ = stream.reset(seed=1)
    returns = np.zeros(2)
    for step in range(1, 4):
        truth = np.array(shown(observations)) % 4
        observations, rewards, terminated, truncated, infos = stream.step((truth + np.array([0, 1])) % 4)
        returns += rewards
        np.testing.assert_array_equal(infos["labels"], truth)
        assert terminated.tolist() == [step == 3] * 2
        assert not truncated.any()
    np.testing.assert_allclose(returns, [1, 0])


@pytest.mark.parametrize("copies", [1, 2, 3, 5])
def test_a_sweep_shows_every_held_out_sample_once_and_pays_the_accuracy(copies):
    """Always answering class 0 is right on samples 0 and 4 of 5."""
    stream = Stream(copies, "toy", split="test")
    observations, _ = stream.reset(seed=9)
    returns, going, seen = np.zeros(copies), np.ones(copies, bool), []
    while going.any():
        seen += np.array(shown(observations))[going].tolist()
        observations, rewards, terminated, _, _ = stream.step(np.zeros(copies, int))
        returns += rewards * going
        going &= ~terminated
    assert sorted(seen) == [100, 101, 102, 103, 104]
    assert returns.mean() == pytest.approx(2 / 5)


def test_no_held_out_sample_is_learned_from_whatever_the_task():
    for options in (
        {},
        {"labels": "random"},
        {"labels": "shuffled"},
        {"classes_per_task": 2, "split_index": 1},
    ):
        stream = Stream(2, "toy", **options)
        seen = shown(stream.reset(seed=0)[0])
        for _ in range(30):
            seen += shown(stream.step(np.zeros(2, int))[0])
        assert max(seen) < 12


def test_statistics_come_from_the_training_part_alone(monkeypatch):
    """With other held-out images, training images look the same."""
    before = Stream(3, "toy", standardise=True).reset(seed=0)[0]
    whole = data.load("toy")
    other = DataSet("toy", 4, 1, whole.train, Part(whole.test.images + 77, whole.test.labels))
    data._load.cache_clear()
    data.standardised.cache_clear()
    monkeypatch.setitem(data.LOADERS, "toy", lambda name, where: other)
    from isorl.envs import stream

    stream._prepared.cache_clear()
    np.testing.assert_array_equal(Stream(3, "toy", standardise=True).reset(seed=0)[0], before)
    everything = Stream(12, "toy", standardise=True).reset(seed=0)[0]
    assert everything.mean() == pytest.approx(0, abs=1e-6)
    assert everything.std() == pytest.approx(1, abs=1e-6)


def test_random_labels_are_the_samples_own_and_new_per_seed():
    one, again, other = (Stream(12, "toy", labels="random", label_seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.labels, again.labels)
    assert (one.labels != other.labels).any()
    remembered = Stream(4, "toy", labels="random", label_seed=3, sweep=True)
    np.testing.assert_array_equal(remembered.labels, one.labels)


def test_random_labels_are_uniform():
    labels = Stream(1, "digits", labels="random").labels
    assert np.bincount(labels).min() > 100  # of 1,438 over 10 classes


def test_shuffled_labels_rename_classes_alike_in_both_parts():
    train = Stream(1, "toy", labels="shuffled", label_seed=2)
    test = Stream(1, "toy", labels="shuffled", label_seed=2, split="test")
    renamed = train.labels[:4]
    assert sorted(renamed) == [0, 1, 2, 3]
    np.testing.assert_array_equal(train.labels, renamed[np.arange(12) % 4])
    np.testing.assert_array_equal(test.labels, renamed[np.arange(5) % 4])


def test_splits_cover_the_classes_under_every_head():
    whole = [Stream(1, "toy", classes_per_task=2, split_index=i) for i in (0, 1)]
    assert [sorted(set(part.labels.tolist())) for part in whole] == [[0, 1], [2, 3]]
    assert whole[1].single_action_space.n == 4
    assert whole[1].allowed is None
    masked = Stream(1, "toy", classes_per_task=2, split_index=1, head="masked")
    assert masked.allowed.tolist() == [False, False, True, True]
    shared = Stream(1, "toy", classes_per_task=2, split_index=1, head="shared")
    assert sorted(set(shared.labels.tolist())) == [0, 1]
    assert shared.single_action_space.n == 2
    drawn = [Stream(1, "toy", classes_per_task=2, split_index=i, class_order_seed=5) for i in (0, 1)]
    assert sorted(set(drawn[0].labels) | set(drawn[1].labels)) == [0, 1, 2, 3]


def test_increments_hold_the_classes_so_far():
    whole = Stream(1, "toy")
    first, second = (Stream(1, "toy", classes_per_task=2, split_index=i, cumulative=True) for i in (0, 1))
    assert set(first.labels) == {0, 1}
    assert set(second.labels) == {0, 1, 2, 3}
    assert len(second.images) == len(whole.images)
    assert first.action_space == second.action_space


@pytest.mark.parametrize("labels", ["random", "shuffled"])
def test_relabelled_splits_stay_among_their_classes(labels):
    for head, expected in (("masked", {2, 3}), ("all", {2, 3}), ("shared", {0, 1})):
        stream = Stream(1, "toy", classes_per_task=2, split_index=1, head=head, labels=labels, label_seed=1)
        assert set(stream.labels.tolist()) == expected


def test_a_quarter_turn_is_exact():
    """warpAffine takes positive angles counterclockwise, as numpy's rot90 does."""
    straight, turned = Stream(1, "digits", sweep=True), Stream(1, "digits", angle=90, sweep=True)
    image, quarter = straight.reset()[0][0, 0], turned.reset()[0][0, 0]
    np.testing.assert_allclose(quarter, np.rot90(image), atol=1 / 16)


def test_state_continues_exactly():
    stream, other = Stream(3, "toy"), Stream(3, "toy")
    stream.reset(seed=0)
    other.reset(seed=1)
    for _ in range(6):
        stream.step(np.zeros(3, int))
    observations = other.load_state_dict(stream.state_dict())
    np.testing.assert_array_equal(observations, stream.observe())
    for _ in range(9):
        one, two = (s.step(np.ones(3, int)) for s in (stream, other))
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1], two[1])


def test_gymnasium_accepts_it():
    env = gymnasium.make("isorl/Digits-v0", render_mode="rgb_array")
    check_env(env.unwrapped)
    assert env.reset(seed=0)[0].shape == (1, 8, 8)
    assert env.render().std() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "randm"}, "random"),
        ({"head": "multi"}, "masked"),
        ({"split": "tset"}, "test"),
        ({"classes_per_task": 3}, "does not divide the 4 classes"),
        ({"classes_per_task": 2, "split_index": 2}, "make 2 tasks"),
        ({"samples": 13}, "only 12 samples"),
        ({"samples": 0}, "at least 1"),
        ({"data": "digit"}, "Did you mean 'digits'"),
        ({"num_envs": 13}, "too few for 13 copies"),
    ],
)
def test_bad_options_are_explained(options, message):
    with pytest.raises(UserError, match=message):
        Stream(**{"num_envs": 1, "data": "toy", **options})


def test_bad_data_is_explained():
    good = Part(np.zeros((4, 1, 2, 2), np.uint8), np.zeros(4, int))
    with pytest.raises(UserError, match="label 7"):
        DataSet("x", 4, 255, good, Part(good.images, np.array([0, 1, 7, 0])))
    with pytest.raises(UserError, match="for 3 labels"):
        DataSet("x", 4, 255, good, Part(good.images, np.zeros(3, int)))
    with pytest.raises(UserError, match="held-out ones"):
        DataSet("x", 4, 255, good, Part(np.zeros((4, 1, 3, 3), np.uint8), good.labels))


def test_the_picture_is_from_black_to_white_and_enlarged(monkeypatch):
    stream = Stream(2, "toy")
    stream.reset(seed=0)
    image = np.array([[[2.0, 4.0], [3.0, 2.0]]], np.float32)
    monkeypatch.setattr(stream, "observe", lambda: np.stack([image, image]))
    drawn = stream.draw(1)
    assert drawn.shape == (128, 128, 3)
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn[::64, ::64], np.array([[0, 255], [127, 0]])[..., None].repeat(3, -1))
    assert (drawn[:64, 64:] == 255).all()


def test_whole_turns_change_nothing_and_the_smallest_angle_does():
    images = [Stream(1, "digits", angle=angle).images for angle in (0, 360, -720, 1, 361)]
    np.testing.assert_array_equal(images[1], images[0])
    np.testing.assert_array_equal(images[2], images[0])
    assert not np.array_equal(images[3], images[0])
    np.testing.assert_allclose(images[4], images[3], atol=1e-4)
