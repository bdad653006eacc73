"""Tiny environments whose every number is known, and short ways to make sequences of them."""

import gymnasium
import numpy as np
import pytest

from isorl.configs import SequenceConfig, TaskConfig
from isorl.envs import Sequence, SwitchingVecEnv


class Counter(gymnasium.Env):
    """Observes (base + steps so far, last action, zeros...), pays base + steps; ends after `length` steps."""

    def __init__(self, base=0, length=3, size=2, actions=2, truncates=False, speed=1.0):
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(actions)
        self.base, self.length, self.truncates, self.speed = base, length, truncates, speed

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.action = 0, 0
        return self._observation(), {}

    def step(self, action):
        assert self.action_space.contains(int(action))
        self.t, self.action = self.t + 1, int(action)
        over = self.t == self.length
        reward = self.base + self.t * self.speed
        return self._observation(), reward, over and not self.truncates, over and self.truncates, {}

    def _observation(self):
        observation = np.zeros(self.observation_space.shape, np.float32)
        observation[:2] = self.base + self.t, self.action
        return observation


class Screen(gymnasium.Env):
    """Images full of one value."""

    def __init__(self, shape=(3, 40, 50), value=7, actions=2, dtype="uint8"):
        high = 255 if dtype == "uint8" else 1
        self.observation_space = gymnasium.spaces.Box(0, high, shape, np.dtype(dtype))
        self.action_space = gymnasium.spaces.Discrete(actions)
        self.image = np.full(shape, min(value, high), dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.image, {}

    def step(self, action):
        return self.image, 0.0, False, False, {}


class Reach(gymnasium.Env):
    """Continuous actions; the observation repeats the last one."""

    def __init__(self, low=-1.0, high=1.0, size=2):
        self.action_space = gymnasium.spaces.Box(low, high, (size,), np.float32)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(self.action_space.shape, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(np.asarray(action, np.float32)), action
        return np.asarray(action, np.float32), 0.0, False, False, {}


for name, entry in (("Counter", Counter), ("Screen", Screen), ("Reach", Reach)):
    if f"toy/{name}-v0" not in gymnasium.registry:
        gymnasium.register(f"toy/{name}-v0", entry, disable_env_checker=True)


@pytest.fixture
def switching():
    """From tasks (dicts of TaskConfig) to a SwitchingVecEnv."""
    made = []

    def make(*tasks, n_envs=1, seed=0, **sequence):
        config = SequenceConfig("test", [TaskConfig(**task) for task in tasks], **sequence)
        env = SwitchingVecEnv(Sequence.from_config(config, seed, n_envs), n_envs, seed)
        made.append(env)
        return env

    yield make
    for env in made:
        env.close()
