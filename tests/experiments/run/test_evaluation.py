"""What an evaluation counts as an episode, and when it gives up."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from isorl.agents import ContinualPPO
from isorl.configs import SequenceConfig, TaskConfig
from isorl.configs.schema import EvaluationConfig, FaultsConfig
from isorl.envs import Sequence, SwitchingVecEnv
from isorl.envs.failures import Failures
from isorl.experiments.run import evaluation
from isorl.experiments.run.evaluation import Evaluator


class Front(gymnasium.Env):
    """Gives a reward in the first ten steps of an episode alone; `fails_at` raises there, in every episode."""

    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Discrete(2)

    def __init__(self, length=100, fails_at=0):
        self.length, self.fails_at, self.now = length, fails_at, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.now = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.now += 1
        if self.now == self.fails_at:
            raise OSError("the cable")
        return np.zeros(2, np.float32), float(self.now <= 10), self.now == self.length, False, {}


class Seeded(Front):
    """Gives in each step what its seed has drawn: the mean of returns says which seeds were played."""

    def reset(self, *, seed=None, options=None):
        observation = super().reset(seed=seed)
        self.drawn = float(self.np_random.integers(2**20))
        return observation

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, self.drawn, *rest


gymnasium.register("test/Front-v0", Front)
gymnasium.register("test/Seeded-v0", Seeded)


def mean_return(env="test/Front-v0", failures=None, kwargs=None, **options):
    task = TaskConfig(env, agent_steps=1000, kwargs=kwargs or {})
    sequence = Sequence.from_config(SequenceConfig("test", [task]), 0, 1)
    switching = SwitchingVecEnv(sequence, 1, 0)
    agent = ContinualPPO("NetworkPolicy", switching, n_steps=32, batch_size=16, seed=0)
    evaluator = Evaluator(EvaluationConfig(**options), switching.common, 7, failures)
    return evaluator.mean_return(agent, sequence.tasks[0])


@pytest.mark.parametrize("episodes", [3, 8, 16, 19])
@pytest.mark.parametrize("cut", [None, 20, 100])
def test_every_episode_begins_at_its_beginning(episodes, cut):
    assert mean_return(episodes=episodes, max_episode_steps=cut) == 10


def test_cut_episodes_are_those_of_different_seeds():
    drawn = [float(np.random.default_rng(7 + number).integers(2**20)) for number in range(16)]
    assert mean_return("test/Seeded-v0", episodes=16, max_episode_steps=1) == pytest.approx(np.mean(drawn))


def test_episode_that_never_ends_is_nan_with_advice(monkeypatch):
    monkeypatch.setattr(evaluation, "LONGEST", 300)
    with pytest.warns(RuntimeWarning, match=r"'Front-v0' is NaN.*1,000 agent steps.*max_episode_steps"):
        assert np.isnan(mean_return(kwargs={"length": 0}, episodes=2))
    assert mean_return(kwargs={"length": 0}, episodes=2, max_episode_steps=30) == 10
    assert mean_return(kwargs={"length": 999}, episodes=2) == 10


def test_episodes_that_always_fail_are_nan(monkeypatch):
    monkeypatch.setattr(evaluation, "LONGEST", 300)
    failures = Failures(FaultsConfig(environment="restart"))
    with pytest.warns(RuntimeWarning, match="is NaN"):
        assert np.isnan(
            mean_return(failures=failures, kwargs={"fails_at": 5}, episodes=1, max_episode_steps=50)
        )
