import numpy as np
from stable_baselines3.common.vec_env import VecNormalize

from isorl.envs.normalize import TaskNormalize, statistics_of

NEAR = dict(env="toy/Counter-v0", kwargs={"base": 0}, agent_steps=6)
FAR = dict(env="toy/Counter-v0", kwargs={"base": 1000}, agent_steps=6)


def play(env, steps):
    seen = [env.reset()]
    results = [env.step(np.array([1])) for _ in range(steps)]
    return seen + [result[0] for result in results], results


def test_every_task_has_statistics_of_its_own(switching):
    env = TaskNormalize(switching(NEAR, FAR, cycles=2))
    play(env, 12)
    means = [rms.mean[0] for rms, _ in env.by_task]
    assert means[0] < 4
    assert 1000 <= means[1] < 1004


def test_the_last_observation_is_normalised_by_the_old_task(switching):
    env = TaskNormalize(switching({**NEAR, "kwargs": {"length": 100}}, FAR))
    _, results = play(env, 6)
    (info,) = results[-1][3]
    old = env.by_task[0][0]
    raw = np.array([6, 1])
    np.testing.assert_allclose(
        info["terminal_observation"], np.clip((raw - old.mean) / np.sqrt(old.var + env.epsilon), -10, 10)
    )
    assert env.by_task[1][0].mean[0] > 900


def test_one_task_is_vecnormalize(switching):
    options = dict(env="CartPole-v1", agent_steps=1000)
    ours, theirs = TaskNormalize(switching(options)), VecNormalize(switching(options))
    for left, right in zip(play(ours, 200)[0], play(theirs, 200)[0], strict=True):
        np.testing.assert_array_equal(left, right)
    assert ours.ret_rms.mean == theirs.ret_rms.mean


def test_in_an_evaluation_statistics_stay_as_they_are(switching):
    env = TaskNormalize(switching(NEAR, FAR))
    play(env, 4)
    before = [(rms.mean.copy(), rms.count, returns.var) for rms, returns in env.by_task]
    env.training = False
    observations, _, _, _ = env.step(np.array([1]))
    for (rms, returns), (mean, count, var) in zip(env.by_task, before, strict=True):
        np.testing.assert_array_equal(rms.mean, mean)
        assert (rms.count, returns.var) == (count, var)
    rms = env.by_task[0][0]
    raw = env.get_original_obs()
    np.testing.assert_allclose(
        observations, np.clip((raw - rms.mean) / np.sqrt(rms.var + env.epsilon), -10, 10), rtol=1e-6
    )


def test_observations_that_are_not_normalised_stay_and_rewards_are(switching):
    ours = TaskNormalize(switching(NEAR), norm_obs=False)
    theirs = VecNormalize(switching(NEAR), norm_obs=False)
    (seen, results), (expected, steps) = play(ours, 5), play(theirs, 5)
    np.testing.assert_array_equal(np.stack(seen), np.stack(expected))
    np.testing.assert_array_equal([r[1] for r in results], [s[1] for s in steps])


def test_a_look_through_another_tasks_statistics(switching):
    env = TaskNormalize(switching(NEAR, FAR))
    play(env, 3)
    present = env.obs_rms
    with statistics_of(env, 1):
        assert env.obs_rms is env.by_task[1][0]
    assert env.obs_rms is present
    with statistics_of(None, 1):
        pass
