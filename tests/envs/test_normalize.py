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


def test_a_look_through_another_tasks_statistics(switching):
    env = TaskNormalize(switching(NEAR, FAR))
    play(env, 3)
    present = env.obs_rms
    with statistics_of(env, 1):
        assert env.obs_rms is env.by_task[1][0]
    assert env.obs_rms is present
    with statistics_of(None, 1):
        pass
