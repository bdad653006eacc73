"""Environments that do what ours do not: reuse their arrays, call their arguments as Gymnasium calls its own."""

import gymnasium
import numpy as np
import pytest

from isorl.configs import SequenceConfig, TaskConfig, UserError
from isorl.configs.schema import FaultsConfig
from isorl.envs import Sequence, SwitchingVecEnv
from isorl.envs.failures import Failures
from isorl.envs.sequence import Task
from isorl.envs.task_env import TaskEnv


class OneArray(gymnasium.Env):
    """Counts its steps in an array that it hands out itself, and sums the actions of its episode; three steps each.

    An episode is a success if the sum is above 0.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, id="none", task="none", env="none", name="none", render_mode=None):
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        self.given, self.render_mode = {"id": id, "task": task, "env": env, "name": name}, render_mode
        self.seen = np.zeros(2, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seen[:] = 0
        return self.seen, {}

    def step(self, action):
        self.seen += [1, action[0]]
        return self.seen, 1.0, False, bool(self.seen[0] == 3), {"is_success": self.seen[1] > 0}

    def render(self):
        return np.zeros((4, 4, 3), np.uint8)


gymnasium.register("toy/OneArray-v0", OneArray, disable_env_checker=True)


@pytest.fixture(params=[False, True], ids=["here", "in processes"])
def env_of(request):
    made = []

    def make(**task):
        config = SequenceConfig("test", [TaskConfig("toy/OneArray-v0", agent_steps=10_000, **task)])
        failures = Failures(FaultsConfig(isolate=request.param))
        made.append(SwitchingVecEnv(Sequence.from_config(config, 0, 2), 2, 7, failures=failures))
        return made[-1]

    yield make
    for env in made:
        env.close()


def test_the_last_observation_is_of_the_episode_that_ended(env_of):
    env = env_of()
    env.reset()
    steps = [env.step(np.full((2, 1), 0.5, np.float32)) for _ in range(3)]
    observations = [observations.tolist() for observations, *_ in steps]
    assert observations == [[[1, 0.5]] * 2, [[2, 1]] * 2, [[0, 0]] * 2]
    assert [info["terminal_observation"].tolist() for info in steps[-1][3]] == [[3, 1.5]] * 2


def test_success_is_told_at_the_end_of_an_episode_and_no_earlier(env_of):
    env = env_of()
    env.reset()
    infos = [env.step(np.array([[0.5], [-0.5]], np.float32))[3] for _ in range(4)]
    told = [[info.get("is_success") for info in step] for step in infos]
    assert told == [[None, None], [None, None], [True, False], [None, None]]


def test_actions_are_kept_when_the_agent_writes_the_next_into_the_same_array(env_of):
    env = env_of()
    env.reset()
    actions = np.zeros((2, 1), np.float32)
    for action in (0.25, 0.5):
        actions[:] = action
        env.step(actions)
    other = env_of()
    other.load_state_dict(env.state_dict())
    seen = other.step(np.zeros((2, 1), np.float32))[3][0]["terminal_observation"]
    assert seen.tolist() == [3, 0.75]


ARGUMENTS = {"id": "a", "task": "b", "env": "c", "name": "d"}


def test_any_name_of_an_argument_reaches_the_environment():
    env = TaskEnv(Task(0, "test", "toy/OneArray-v0", 100, kwargs=dict(ARGUMENTS)), n_envs=1)
    assert env.env.envs[0].unwrapped.given == ARGUMENTS


def test_any_name_of_an_argument_reaches_a_process(env_of):
    env_of(kwargs=dict(ARGUMENTS)).reset()


def test_an_argument_that_is_not_the_environments_is_refused(env_of):
    with pytest.raises(UserError, match="unexpected keyword argument 'idd'"):
        env_of(kwargs={"idd": 1})


@pytest.mark.parametrize("env_id", ["CartPole-v1", "isorl/Catch-v0"])
def test_an_argument_named_as_gymnasiums_own_is_refused_in_the_environments_words(env_id):
    with pytest.raises(UserError, match="unexpected keyword argument 'id'"):
        TaskEnv(Task(0, "test", env_id, 100, kwargs={"id": 1}), n_envs=1)


def test_the_time_limit_is_still_gymnasiums():
    env = TaskEnv(Task(0, "test", "CartPole-v1", 100, kwargs={"max_episode_steps": 3}), n_envs=1)
    env.reset(0)
    assert [bool(env.step(np.array([step % 2])).truncated[0]) for step in range(3)] == [False, False, True]


@pytest.mark.parametrize("render", [False, True])
def test_a_task_may_name_its_render_mode(render):
    task = Task(0, "test", "toy/OneArray-v0", 100, kwargs={"render_mode": "rgb_array"})
    env = TaskEnv(task, n_envs=1, render=render)
    env.reset(0)
    assert env.render()[0].shape == (4, 4, 3)
