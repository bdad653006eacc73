"""stable-baselines3's rollouts without what our runs do not need: the same draws and numbers, fewer Python steps.

Runs of a pack ask for their actions and values here, and get them computed for all at once (pack/).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor


def collect_rollout(agent: Any, env: VecEnv, callback: BaseCallback, buffer: Any, n_rollout_steps: int) -> bool:
    """OnPolicyAlgorithm.collect_rollouts of a fast agent; False where the callback ended it."""
    policy = agent.policy
    policy.set_training_mode(False)
    buffer.reset()
    callback.on_rollout_start()
    bounds = (agent.action_space.low, agent.action_space.high) if isinstance(agent.action_space, spaces.Box) else None
    for _ in range(n_rollout_steps):
        answer = agent.meet("act", agent._last_obs)
        actions, values, log_probs = answer or _alone(agent, policy.forward, agent._last_obs)
        actions = actions.cpu().numpy()
        new_obs, rewards, dones, infos = env.step(actions if bounds is None else np.clip(actions, *bounds))
        agent.num_timesteps += env.num_envs

        callback.update_locals(locals())
        if not callback.on_step():
            return False
        agent._update_info_buffer(infos, dones)
        if dones.any():
            _bootstrap(agent, rewards, dones, infos)
        buffer.add(agent._last_obs, actions, rewards, agent._last_episode_starts, values, log_probs)
        agent._last_obs, agent._last_episode_starts = new_obs, dones

    values = agent.meet("values", new_obs)
    if values is None:
        values = _alone(agent, policy.predict_values, new_obs)
    buffer.compute_returns_and_advantage(last_values=values, dones=dones)
    callback.update_locals(locals())
    callback.on_rollout_end()
    return True


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
