"""Meta-World's tasks are played as Meta-World plays them, and follow from the seed of `reset`."""

import pickle
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from isorl.configs import SequenceConfig, TaskConfig, UserError
from isorl.configs.schema import FaultsConfig
from isorl.envs import Sequence, SwitchingVecEnv, metaworld
from isorl.envs.failures import Failures
from isorl.envs.sequence import Task, _with_known_id
from isorl.envs.task_env import TaskEnv

CW10 = [
    "hammer",
    "push-wall",
    "faucet-close",
    "push-back",
    "stick-pull",
    "handle-press-side",
    "push",
    "shelf-place",
    "window-close",
    "peg-unplug-side",
]


@pytest.fixture(autouse=True)
def _registered(request):
    if "missing" not in request.node.name:
        pytest.importorskip("metaworld")
        metaworld.register()


def make(task):
    return gymnasium.make(f"isorl/MetaWorld-{task}-v3")


def played(env, steps, seed=1):
    env.action_space.seed(seed)
    rows = [env.step(env.action_space.sample()) for _ in range(steps)]
    return np.array([[*observation, reward] for observation, reward, *_ in rows])


@pytest.mark.parametrize("task", CW10)
def test_it_plays_what_metaworld_plays(task):
    """Its own class, given the same places by its `set_task`, plays the same second episode digit for digit."""
    from metaworld import Task as Places
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    ours = make(task)
    ours.reset(seed=3)
    played(ours, 20)
    first, _ = ours.reset()
    kind = ALL_V3_ENVIRONMENTS[f"{task}-v3"]
    theirs = kind()
    drawn = ours.unwrapped.env._last_rand_vec
    told = {"env_cls": kind, "rand_vec": drawn, "partially_observable": False}
    theirs.set_task(Places(f"{task}-v3", pickle.dumps(told)))
    expected, _ = theirs.reset()
    np.testing.assert_array_equal(first, expected)
    theirs.action_space.seed(1)
    for got in played(ours, 100):
        observation, reward, *_ = theirs.step(theirs.action_space.sample())
        np.testing.assert_array_equal(got, [*observation, reward])
        assert 0 <= reward <= 10


@pytest.mark.parametrize("task", CW10)
def test_a_seed_repeats_the_episode_whatever_was_before(task):
    one, other = make(task), make(task)
    other.reset(seed=9)
    played(other, 30)
    beginnings = [env.reset(seed=5)[0] for env in (one, other)]
    np.testing.assert_array_equal(*beginnings)
    np.testing.assert_array_equal(played(one, 60), played(other, 60))
    second = one.reset()[0]
    assert not np.array_equal(second, beginnings[0])  # other places
    np.testing.assert_array_equal(second, other.reset()[0])
    assert one.observation_space.contains(second)


def test_the_goal_is_seen():
    env = make("reach")
    goals = {tuple(env.reset(seed=seed)[0][-3:]) for seed in range(3)}
    assert len(goals) == 3
    assert env.observation_space.low[-3:].tolist() == pytest.approx([-0.1, 0.8, 0.05])


@pytest.mark.filterwarnings("ignore:.*Box observation space")  # objects may be anywhere
def test_check_env():
    env = gymnasium.make("isorl/MetaWorld-reach-v3")
    check_env(env.unwrapped, skip_render_check=True)  # which needs a screen or EGL


def solved(env, policy):
    """Plays an episode by one of Meta-World's scripted policies; returns its infos."""
    observation, info = env.reset(seed=0)
    infos, over = [], False
    while not over:
        action = np.clip(policy.get_action(observation), -1, 1).astype(np.float32)
        observation, _, terminated, truncated, info = env.step(action)
        assert not terminated
        infos.append(info)
        over = truncated
    return infos


@pytest.mark.filterwarnings("ignore:Constant.* may be too high")  # of the scripted policy
def test_an_episode_succeeds_by_any_of_its_steps_and_is_truncated_after_200():
    from metaworld.policies import SawyerWindowCloseV3Policy

    env = make("window-close")
    infos = solved(env, SawyerWindowCloseV3Policy())
    assert len(infos) == 200
    succeeded = np.logical_or.accumulate([bool(info["success"]) for info in infos])
    assert [info["is_success"] for info in infos] == succeeded.tolist()
    assert not succeeded[0]
    assert succeeded[-1]
    env.reset()
    assert not env.step(np.zeros(4, np.float32))[4]["is_success"]


@pytest.mark.filterwarnings("ignore:Constant.* may be too high")  # of the scripted policy
@pytest.mark.parametrize("isolate", [False, True])
def test_the_learner_is_told_of_success_at_the_end_of_an_episode(isolate):
    """A window that is closed by the script in copy 0, while copy 1 stands still."""
    from metaworld.policies import SawyerWindowCloseV3Policy

    tasks = [TaskConfig("isorl/MetaWorld-window-close-v3", agent_steps=1_000)]
    sequence = Sequence.from_config(SequenceConfig("test", tasks), 0, 2)
    env = SwitchingVecEnv(sequence, 2, 0, failures=Failures(FaultsConfig(isolate=isolate)))
    observations, policy = env.reset(), SawyerWindowCloseV3Policy()
    for step in range(200):
        script = np.clip(policy.get_action(observations[0].astype(float)), -1, 1)
        observations, _, dones, infos = env.step(np.stack([script, np.zeros(4)]).astype(np.float32))
        assert dones.all() == (step == 199)
    assert [info["is_success"] for info in infos] == [True, False]
    assert all(info["TimeLimit.truncated"] for info in infos)
    env.close()


def test_more_steps_than_metaworlds_own_limit():
    env = TaskEnv(Task(0, "reach", "isorl/MetaWorld-reach-v3", 1, {"max_episode_steps": 510}), 1)
    env.reset(0)
    over = [bool(env.step(np.zeros((1, 4), np.float32)).truncated[0]) for _ in range(510)]
    assert over == [False] * 509 + [True]


def test_unknown_names_and_rewards_are_refused():
    with pytest.raises(UserError, match="Did you mean 'isorl/MetaWorld-hammer-v3'"):
        _with_known_id(TaskConfig("isorl/MetaWorld-hamer-v3", agent_steps=1))
    with pytest.raises(UserError, match="'reward_function_version' is 'v3', not v1 or v2"):
        TaskEnv(Task(0, "reach", "isorl/MetaWorld-reach-v3", 1, {"reward_function_version": "v3"}), 1)


def test_where_it_is_missing_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "metaworld.env_dict", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[metaworld\]'"):
        _with_known_id(TaskConfig("isorl/MetaWorld-hammer-v3", agent_steps=1))
