"""Meta-World (Yu et al. 2019, arXiv 1910.10897): a robot arm's fifty tasks, isorl/MetaWorld-hammer-v3 and so on.

Played by the package `metaworld` as Continual World (Wolczyk et al. 2021, arXiv 2105.10919) plays them: every episode
draws the places of object and goal anew, the goal is part of the observation (Meta-World hides it from
meta-reinforcement learning alone), an episode has 200 agent steps and ends by this limit alone, the reward is that of
Meta-World's version 2, between 0 and 10. An extra of its own, whose MuJoCo is older than dm_control's:
pip install -e '.[metaworld]'. A saved run plays its episode again.
"""

from __future__ import annotations

import pickle
from typing import Any

import gymnasium
import numpy as np

from isorl.configs import UserError

EPISODE = 200
"""Agent steps of an episode, as in Continual World; Meta-World's own benchmarks have 500."""


def register() -> None:
    """Registers every task of Meta-World as isorl/MetaWorld-<task>; called again, does nothing.

    Raises:
        UserError: Meta-World is not installed.
    """
    try:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    except ImportError:
        raise UserError(
            "Meta-World is not installed. Install it with: pip install -e '.[metaworld]'"
        ) from None
    for task in ALL_V3_ENVIRONMENTS:
        env_id = f"isorl/MetaWorld-{task}"
        if env_id not in gymnasium.registry:
            gymnasium.register(
                env_id, f"{__name__}:MetaWorld", max_episode_steps=EPISODE, kwargs={"task": task}
            )


class MetaWorld(gymnasium.Env):
    """Plays one task of Meta-World, with episodes that follow from the seed of `reset` alone.

    Meta-World's own `reset` ignores its seed. `info` is Meta-World's, with "success" of the step, and "is_success",
    whether any step of the episode so far was one: what Continual World and Meta-World count.

    Args:
        task: one of Meta-World's names, such as hammer-v3.
        reward_function_version: v2, of which Meta-World's results are since 2021, or v1, of which those before are.
        render_mode: rgb_array draws frames.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 80}  # noqa: RUF012

    def __init__(
        self, task: str, reward_function_version: str = "v2", render_mode: str | None = None
    ) -> None:
        from metaworld import Task
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS

        if reward_function_version not in ("v1", "v2"):
            raise ValueError(f"'reward_function_version' is '{reward_function_version}', not v1 or v2")
        kind = ALL_V3_ENVIRONMENTS[task]
        self.env = env = kind(
            reward_function_version=reward_function_version, render_mode=render_mode, camera_name="corner2"
        )
        shown = {"env_cls": kind, "rand_vec": None, "partially_observable": False}
        env.set_task(Task(task, pickle.dumps(shown)))
        env.seeded_rand_vec = True  # places are drawn from np_random
        env.max_path_length = np.inf  # gymnasium.make limits the episode
        env.np_random = self.np_random
        self.observation_space, self.action_space = env.sawyer_observation_space, env.action_space
        self.render_mode = render_mode
        self._succeeded = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode at places drawn anew."""
        super().reset(seed=seed)
        self._succeeded = False
        env = self.env
        env.np_random = self.np_random
        env._freeze_rand_vec = False
        env.reset_model()  # draws, as Meta-World draws the places of its tasks
        env._freeze_rand_vec = True
        return env.reset()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Makes one agent step: five of the simulation."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._succeeded |= bool(info["success"])
        return observation, float(reward), terminated, truncated, {**info, "is_success": self._succeeded}

    def render(self) -> Any:
        """Draws the scene from a corner of the table, (480, 480, 3) uint8; its cameras hang upside down."""
        return self.env.render()[::-1, ::-1].copy()

    def close(self) -> None:
        """Frees the simulation."""
        self.env.close()
