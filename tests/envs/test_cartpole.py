"""CartPole in numpy is Gymnasium's, bit for bit."""

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from isorl.envs.cartpole import CartPoles


def test_equals_gymnasiums():
    ours = CartPoles(4)
    theirs = SyncVectorEnv(
        [lambda: gymnasium.make("CartPole-v1")] * 4, autoreset_mode=AutoresetMode.SAME_STEP
    )
    assert ours.single_observation_space == theirs.single_observation_space
    np.testing.assert_array_equal(ours.reset(seed=7)[0], theirs.reset(seed=7)[0])
    rng, falls, cuts = np.random.default_rng(0), 0, 0
    upright = 0
    for step in range(3000):
        seen = ours.state[:, 2] + ours.state[:, 3]
        upright = step % 1000 < 800  # balances long enough to be cut, then falls at random
        actions = (seen > 0).astype(int) if upright else rng.integers(0, 2, 4)
        left, right = ours.step(actions), theirs.step(actions)
        for a, b in zip(left[:2], right[:2], strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(left[2] | left[3], right[2] | right[3])
        np.testing.assert_array_equal(left[3], right[3] & ~right[2])
        done = left[2] | left[3]
        for copy in np.flatnonzero(done):
            np.testing.assert_array_equal(left[4]["final_obs"][copy], right[4]["final_obs"][copy])
        falls, cuts = falls + left[2].sum(), cuts + left[3].sum()
    assert falls > 10
    assert cuts > 5


def test_a_list_of_seeds_counts_by_its_first():
    ours = CartPoles(3)
    expected = ours.reset(seed=7)[0]
    np.testing.assert_array_equal(ours.reset(seed=[7, None, 2])[0], expected)
    assert not np.array_equal(ours.reset()[0], expected), "without a seed the streams go on"


def test_goes_on_where_it_was_saved():
    env, other = CartPoles(3), CartPoles(3)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(30):
        env.step(rng.integers(0, 2, 3))
    np.testing.assert_array_equal(other.load_state_dict(env.state_dict()), env.observe())
    for _ in range(100):
        actions = rng.integers(0, 2, 3)
        for a, b in zip(env.step(actions)[:4], other.step(actions)[:4], strict=True):
            np.testing.assert_array_equal(a, b)
