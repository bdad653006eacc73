"""Plays tasks with the present policy, on environments and random streams of their own."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from isorl.agents.fast_policies import numpy_inference
from isorl.agents.policies import NetworkClassifier
from isorl.configs.schema import EvaluationConfig
from isorl.envs.failures import Failures
from isorl.envs.normalize import statistics_of
from isorl.envs.sequence import Task
from isorl.envs.spaces import CommonSpaces
from isorl.envs.task_env import TaskEnv

MAX_COPIES = 8
"""Copies of the environment that play at a time."""
LONGEST = 100_000
"""Agent steps that an episode may go on for in any evaluation; for a longer one, as many as a visit has."""


class NeverEnds(Exception):
    """Says that an evaluated episode does not come to its end."""


@contextmanager
def random_streams_preserved() -> Iterator[None]:
    """Leaves the global random streams of Python, numpy and torch as they were, whatever is drawn inside."""
    python, numpy_state = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_state)


def _seed_torch(seed: int) -> None:
    """torch.manual_seed, which takes a millisecond, without devices that are not used."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


class Evaluator:
    """Measures the mean raw return of a policy on a task.

    Args:
        config: episodes, their cut, greedy or not.
        common: the spaces that the agent sees.
        seed: the same episodes' seeds at every evaluation.
        failures: what is done about those of an environment; None: they end the run.
    """

    def __init__(
        self, config: EvaluationConfig, common: CommonSpaces, seed: int, failures: Failures | None = None
    ) -> None:
        self.failures = failures
        self.config = config
        self.common = common
        self.seed = seed

    def mean_return(self, agent: BaseAlgorithm, task: Task) -> float:
        """Returns the mean raw return over `config.episodes` episodes, cut or whole.

        An episode cut by `max_episode_steps` counts as it is. Every environment plays a fixed share of the episodes, so
        that short ones are not preferred. A swept stream plays one round, at most 8 episodes, which shows every sample
        once: the mean is the accuracy. NaN, with a warning, where an episode does not end within the length of a visit,
        or within LONGEST where that is more.
        """
        played = task.for_evaluation()
        n_envs = min(self.config.episodes, MAX_COPIES)
        episodes = n_envs if played.is_swept else self.config.episodes
        shares = np.array([(episodes + env) // n_envs for env in range(n_envs)])
        env = TaskEnv(played, n_envs, self.common, failures=self.failures)
        was_training = agent.policy.training
        with random_streams_preserved(), statistics_of(agent.get_vec_normalize_env(), task.index):
            _seed_torch(self.seed)
            try:
                agent.policy.set_training_mode(False)
                with numpy_inference(agent.policy):
                    return float(np.mean(self._play(agent, env, shares)))
            except NeverEnds as never:
                warnings.warn(str(never), RuntimeWarning, stacklevel=2)
                return float("nan")
            finally:
                agent.policy.set_training_mode(was_training)
                env.close()

    def _play(self, agent: BaseAlgorithm, env: TaskEnv, shares: np.ndarray) -> list[float]:
        rng = np.random.default_rng(self.seed)
        if self.config.max_episode_steps is None:
            return self._play_round(agent, env, shares, self.seed, rng)
        # a cut game would go on in its copy, so all begin anew for each episode
        return [
            value
            for number in range(max(shares))
            for value in self._play_round(agent, env, shares > number, self.seed + number * len(shares), rng)
        ]

    def _play_round(
        self, agent: BaseAlgorithm, env: TaskEnv, shares: np.ndarray, seed: int, rng: np.random.Generator
    ) -> list[float]:
        """Plays as many episodes in each copy as its share (n_envs,), from a reset on; returns their raw returns."""
        cut = self.config.max_episode_steps
        longest = max(env.task.agent_steps, LONGEST, cut or 0)
        returns: list[list[float]] = [[] for _ in shares]
        running, lengths = np.zeros(len(shares)), np.zeros(len(shares), dtype=int)
        since_last = np.zeros(
            len(shares), dtype=int
        )  # agent steps without a result, those of failed episodes included
        observations = env.reset(seed)
        while pending := [copy for copy, share in enumerate(shares) if len(returns[copy]) < share]:
            if since_last[pending].max() > longest:
                raise NeverEnds(_advice(env.task.name, longest, cut))
            actions = act(agent, observations, self.config.deterministic, rng, env.allowed)
            step = env.step(actions)
            running, lengths, since_last = running + step.raw_rewards, lengths + 1, since_last + 1
            observations = step.observations
            ended = [episode.copy for episode in step.episodes]
            if step.truncated.any():  # without an episode: it failed and was made anew, which is no result
                failed = list(set(np.flatnonzero(step.truncated)) - set(ended))
                running[failed] = lengths[failed] = 0
            if cut:
                ended += [int(copy) for copy in np.flatnonzero(lengths >= cut) if copy not in ended]
            for copy in ended:
                returns[copy].append(running[copy])
                running[copy] = lengths[copy] = since_last[copy] = 0
        return [value for done, share in zip(returns, shares, strict=True) for value in done[: int(share)]]


def _advice(task: str, longest: int, cut: int | None) -> str:
    advice = "" if cut else " Cut its episodes: evaluation.max_episode_steps=1000, for example."
    return f"The evaluation of task '{task}' is NaN: no episode ended within {longest:,} agent steps.{advice}"


def act(
    agent: BaseAlgorithm,
    observations: np.ndarray,
    deterministic: bool,
    rng: np.random.Generator,
    allowed: np.ndarray | None = None,
) -> np.ndarray:
    """Returns actions as the agent would take them: PPO samples its policy, DQN explores with its final epsilon.

    A classifier with masked heads answers among the classes that are `allowed` (actions,).
    """
    if isinstance(agent.policy, NetworkClassifier):
        agent.policy.restrict(allowed)
    normalizer = agent.get_vec_normalize_env()
    if isinstance(normalizer, VecNormalize):
        observations = normalizer.normalize_obs(observations)  # type: ignore[assignment]
    actions, _ = agent.policy.predict(observations, deterministic=deterministic)
    epsilon: Any = getattr(agent, "exploration_final_eps", 0.0)
    if not deterministic and epsilon > 0:
        explore = rng.random(len(actions)) < epsilon
        random_actions = rng.integers(int(agent.action_space.n), size=len(actions))  # type: ignore[attr-defined]
        actions = np.where(explore, random_actions, actions)
    return actions
