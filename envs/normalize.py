"""Running normalisation of observations and rewards with statistics of its own for every task.

With shared statistics stable-baselines3's VecNormalize serves as it is. Both are frozen at evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn


class TaskNormalize(VecNormalize):
    """Normalises as VecNormalize does, with statistics that change with the task.

    Args:
        venv: the environment; its tasks are those of its sequence.
        options: of VecNormalize.
    """

    def __init__(self, venv: VecEnv, **options: Any) -> None:
        super().__init__(venv, **options)
        switching: Any = venv  # a SwitchingVecEnv
        shape: Any = venv.observation_space.shape
        self.obs_rms: Any
        self.by_task = [
            (RunningMeanStd(shape=shape), RunningMeanStd(shape=())) for _ in switching.sequence.tasks
        ]
        self.use(switching.task.index)

    def use(self, task_index: int) -> None:
        """Normalises by the statistics of this task from now on."""
        self.obs_rms, self.ret_rms = self.by_task[task_index]

    def step_wait(self) -> VecEnvStepReturn:
        """Steps as VecNormalize does, but rewards and last observations at a switch belong to the old task."""
        observations: Any
        observations, rewards, dones, infos = self.venv.step_wait()
        self.old_obs, self.old_reward = observations, rewards
        if self.training:
            self._update_reward(rewards)
        rewards = self.normalize_reward(rewards)
        for info in infos:
            if "terminal_observation" in info:
                info["terminal_observation"] = self.normalize_obs(info["terminal_observation"])
        self.returns[dones] = 0
        self.use(self.venv.task.index)  # type: ignore[attr-defined]
        if self.training and self.norm_obs:
            self.obs_rms.update(observations)
        return self.normalize_obs(observations), rewards, dones, infos


@contextmanager
def statistics_of(normalizer: VecNormalize | None, task_index: int) -> Iterator[None]:
    """Makes observations be normalised inside as they are in this task."""
    if not isinstance(normalizer, TaskNormalize):
        yield
        return
    before = normalizer.obs_rms, normalizer.ret_rms
    normalizer.use(task_index)
    try:
        yield
    finally:
        normalizer.obs_rms, normalizer.ret_rms = before
