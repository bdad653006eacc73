"""stable-baselines3's rollouts as our learners live them: the same draws and numbers, and an end at a task switch.

A rollout ends where the task switches, so that what methods and switch options do comes before the first update on the
new task and no update sees both. Actions and values are asked of the runs that share the process, if any.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import RolloutReturn, TrainFreq
from stable_baselines3.common.utils import should_collect_more_steps
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor


def can_collect(agent: Any) -> bool:
    """Tells whether the functions of this module serve `agent`; stable-baselines3's own serve all others."""
    actions = isinstance(agent.action_space, (spaces.Discrete, spaces.Box))
    return isinstance(agent.observation_space, spaces.Box) and actions and not agent.use_sde


def collect_rollout(
    agent: Any, env: VecEnv, callback: BaseCallback, buffer: Any, n_rollout_steps: int
) -> bool:
    """Does what OnPolicyAlgorithm.collect_rollouts does; False where the callback ended it."""
    agent.policy.set_training_mode(False)
    buffer.reset()
    callback.on_rollout_start()
    with _inference(agent):
        dones = _fill(agent, env, callback, buffer, n_rollout_steps)
    if dones is None:
        return False
    last = agent.request_batched("values", agent._last_obs)
    if last is None:
        last = _values(agent, agent._last_obs)
    buffer.compute_returns_and_advantage(last_values=last, dones=dones)
    callback.update_locals(locals())
    callback.on_rollout_end()
    return True


def _fill(
    agent: Any, env: VecEnv, callback: BaseCallback, buffer: Any, n_rollout_steps: int
) -> np.ndarray | None:
    """Collects a rollout; returns which episodes (N,) ended at its last step, None where the callback ended it."""
    space, visit = agent.action_space, where_in_plan(env)
    bounds = (space.low, space.high) if isinstance(space, spaces.Box) else None
    dones = None
    for _ in range(n_rollout_steps):
        answer = agent.request_batched("act", agent._last_obs)
        if answer is None:
            with torch.no_grad(), agent.rng.installed():
                answer = agent.policy(torch.as_tensor(agent._last_obs, device=agent.device))
        actions, values, log_probs = answer
        if isinstance(actions, Tensor):
            actions = actions.cpu().numpy()
        new_obs: Any
        new_obs, rewards, dones, infos = env.step(actions if bounds is None else np.clip(actions, *bounds))
        agent.num_timesteps += env.num_envs

        callback.update_locals(locals())
        if not callback.on_step():
            return None
        if np.count_nonzero(dones):
            agent._update_info_buffer(infos, dones)
            _bootstrap(agent, rewards, dones, infos)
        buffer.add(agent._last_obs, actions, rewards, agent._last_episode_starts, values, log_probs)
        agent._last_obs, agent._last_episode_starts = new_obs, dones
        if where_in_plan(env) != visit:
            break
    return dones


def collect_transitions(
    agent: Any,
    env: VecEnv,
    callback: BaseCallback,
    train_freq: TrainFreq,
    replay_buffer: Any,
    action_noise: None = None,
    learning_starts: int = 0,
    log_interval: int | None = None,
) -> RolloutReturn:
    """Does what OffPolicyAlgorithm.collect_rollouts does for discrete actions."""
    agent.policy.set_training_mode(False)
    normalised = agent._vec_normalize_env is not None
    steps, episodes, visit = 0, 0, where_in_plan(env)
    callback.on_rollout_start()
    with _inference(agent):
        while should_collect_more_steps(train_freq, steps, episodes) and where_in_plan(env) == visit:
            actions = _epsilon_greedy(agent, learning_starts)
            new_obs: Any
            new_obs, rewards, dones, infos = env.step(actions)
            agent.num_timesteps += env.num_envs
            steps += 1

            callback.update_locals(locals())
            if not callback.on_step():
                return RolloutReturn(steps * env.num_envs, episodes, continue_training=False)
            if np.count_nonzero(dones):
                agent._update_info_buffer(infos, dones)
            if normalised:
                agent._store_transition(replay_buffer, actions, new_obs, rewards, dones, infos)
            else:
                after = _before_reset(new_obs, dones, infos)
                replay_buffer.add(agent._last_obs, after, actions, rewards, dones, infos)
                agent._last_obs = new_obs
            agent._update_current_progress_remaining(agent.num_timesteps, agent._total_timesteps)
            agent._on_step()
            for _ in range(np.count_nonzero(dones)):
                episodes += 1
                agent._episode_num += 1
                if log_interval is not None and agent._episode_num % log_interval == 0:
                    agent.dump_logs()
    callback.on_rollout_end()
    return RolloutReturn(steps * env.num_envs, episodes, continue_training=True)


def where_in_plan(env: VecEnv) -> tuple[int, bool] | None:
    """Returns the number of the present visit and whether the last one is over; None where there are no visits."""
    visit = getattr(env.unwrapped, "visit", None)
    return None if visit is None else (visit.number, env.unwrapped.finished)  # type: ignore[attr-defined]


def _inference(agent: Any) -> Any:
    """Lets a policy in half precision round its weights once inside."""
    return getattr(agent.policy, "keeping_casts", nullcontext)()


def _epsilon_greedy(agent: Any, learning_starts: int) -> np.ndarray:
    """Chooses actions (N,): at random in the beginning and with probability epsilon, for all copies alike."""
    obs = agent._last_obs
    explores = agent.num_timesteps < learning_starts or agent.rng.numpy.rand() < agent.exploration_rate
    greedy = agent.request_batched("act", obs)  # also where it is not needed: the other runs wait for it
    if explores:
        space = agent.action_space  # draws as many calls of space.sample() would
        return space.start + space.np_random.integers(space.n, size=len(obs))
    return agent.policy.predict(obs, deterministic=True)[0] if greedy is None else greedy


def _before_reset(new_obs: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]) -> np.ndarray:
    """Returns the observations (N, ...) as they were before any autoreset."""
    if not np.count_nonzero(dones):
        return new_obs
    last = new_obs.copy()
    for copy in np.flatnonzero(dones):
        last[copy] = infos[copy].get("terminal_observation", new_obs[copy])
    return last


def _values(agent: Any, observations: np.ndarray) -> Tensor:
    with torch.no_grad():
        return agent.policy.predict_values(torch.as_tensor(observations, device=agent.device))


def _bootstrap(agent: Any, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
    """Adds gamma times the value of the last observation where an episode was truncated: it would have gone on."""
    cut = [copy for copy in np.flatnonzero(dones) if infos[copy].get("TimeLimit.truncated", False)]
    for copies in [[copy] for copy in cut] if getattr(agent, "exact", True) else [cut] * bool(cut):
        last = np.stack([infos[copy]["terminal_observation"] for copy in copies])
        rewards[copies] += agent.gamma * _values(agent, last).cpu().numpy()[:, 0]
