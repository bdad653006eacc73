"""stable-baselines3's rollouts without what our runs do not need: the same draws and numbers, fewer Python steps.

Runs of a pack ask for their actions and values here, and get them computed for all at once (pack/).
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

from isorl.agents.fast_policies import answering


def collect_rollout(
    agent: Any, env: VecEnv, callback: BaseCallback, buffer: Any, n_rollout_steps: int
) -> bool:
    """OnPolicyAlgorithm.collect_rollouts of a fast agent; False where the callback ended it."""
    agent.policy.set_training_mode(False)
    buffer.reset()
    callback.on_rollout_start()
    # a pack moves weights to where it answers for all
    with nullcontext() if agent.pack else answering(agent.policy):
        dones = _fill(agent, env, callback, buffer, n_rollout_steps)
    if dones is None:
        return False
    last = agent.meet("values", agent._last_obs)
    if last is None:
        last = _alone(agent, agent.policy.predict_values, agent._last_obs)
    buffer.compute_returns_and_advantage(last_values=last, dones=dones)
    callback.update_locals(locals())
    callback.on_rollout_end()
    return True


def _fill(
    agent: Any, env: VecEnv, callback: BaseCallback, buffer: Any, n_rollout_steps: int
) -> np.ndarray | None:
    """A rollout; gives back which episodes (N,) ended at its last step, None where the callback ended it."""
    bounds = (
        (agent.action_space.low, agent.action_space.high)
        if isinstance(agent.action_space, spaces.Box)
        else None
    )
    for _ in range(n_rollout_steps):
        answer = agent.meet("act", agent._last_obs)
        if answer is None:
            answer = _alone(agent, agent.policy.forward, agent._last_obs)
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
    """OffPolicyAlgorithm.collect_rollouts of a fast agent with discrete actions."""
    agent.policy.set_training_mode(False)
    normalised = agent._vec_normalize_env is not None
    steps, episodes = 0, 0
    callback.on_rollout_start()
    while should_collect_more_steps(train_freq, steps, episodes):
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
            replay_buffer.add(agent._last_obs, _last(new_obs, dones, infos), actions, rewards, dones, infos)
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


def _epsilon_greedy(agent: Any, learning_starts: int) -> np.ndarray:
    """(N,) actions: at random in the beginning and with probability epsilon, all copies alike."""
    obs = agent._last_obs
    explores = agent.num_timesteps < learning_starts or agent.streams.numpy.rand() < agent.exploration_rate
    greedy = agent.meet("act", obs)  # also where it is not needed: the other runs wait for it
    if explores:
        space = agent.action_space  # draws as many calls of space.sample() would
        return space.start + space.np_random.integers(space.n, size=len(obs))
    return agent.policy.predict(obs, deterministic=True)[0] if greedy is None else greedy


def _last(new_obs: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]) -> np.ndarray:
    """(N, ...): the observations before any autoreset."""
    if not np.count_nonzero(dones):
        return new_obs
    last = new_obs.copy()
    for copy in np.flatnonzero(dones):
        last[copy] = infos[copy].get("terminal_observation", new_obs[copy])
    return last


def _alone(agent: Any, compute: Any, observations: np.ndarray) -> Any:
    with torch.no_grad(), agent.streams.installed():
        return compute(torch.as_tensor(observations, device=agent.device))


def _bootstrap(agent: Any, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
    """A truncated episode would have gone on: gamma times the value of its last observation is added."""
    cut = [copy for copy in np.flatnonzero(dones) if infos[copy].get("TimeLimit.truncated", False)]
    if cut:
        last = np.stack([infos[copy]["terminal_observation"] for copy in cut])
        value: Tensor = _alone(agent, agent.policy.predict_values, last)
        rewards[cut] += agent.gamma * value.cpu().numpy()[:, 0]
