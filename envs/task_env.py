"""One task, running in n copies: a Gymnasium VectorEnv with its shifts, clipped rewards and raw episode returns.

Three kinds of environment meet here, all with same-step autoreset (a finished copy restarts at once and its last
observation is handed over apart):
  ALE/...    ale_py's native AtariVectorEnv, 84x84x4 uint8, all 18 actions
  isorl/...  this project's numpy environments, vectorised natively
  others     gymnasium.make in a SyncVectorEnv
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from configs import UserError
from envs.sequence import Task
from envs.shifts import make_shift

ATARI_DEFAULTS: dict[str, Any] = {
    "frameskip": 4,
    "full_action_space": True,  # 18 actions for every game: one head serves the whole sequence
    "repeat_action_probability": 0.25,  # sticky actions, Machado et al. 2018
}

EXTRAS = {"box2d": "box2d", "mujoco": "mujoco"}


@dataclass(frozen=True)
class Episode:
    """A finished episode: sum of raw rewards and length in agent steps."""

    copy: int
    raw_return: float
    length: int


@dataclass
class Step:
    """What one vector step gave. Rewards are as trained on; raw returns stand in `episodes`."""

    observations: np.ndarray  # (n_envs, ...), after autoreset
    rewards: np.ndarray  # (n_envs,) float32, the sign of the raw ones in Atari
    raw_rewards: np.ndarray  # (n_envs,)
    terminated: np.ndarray  # (n_envs,) bool
    truncated: np.ndarray  # (n_envs,) bool
    final: np.ndarray  # (n_envs, ...): before autoreset; equals `observations` where nothing ended
    episodes: list[Episode] = field(default_factory=list)


class TaskEnv:
    """`n_envs` copies of one task.

    Args:
        task: which environment, arguments and shifts.
        n_envs: number of copies.
        render: build Gymnasium environments that can draw frames, also for Atari.

    Raises:
        UserError: wrong arguments, or an extra that is not installed.
    """

    def __init__(self, task: Task, n_envs: int, render: bool = False) -> None:
        self.task = task
        self.n_envs = n_envs
        self.env = _make_vector_env(task, n_envs, render)
        self.observation_space: spaces.Space = self.env.single_observation_space
        self.action_space: spaces.Space = self.env.single_action_space
        self.shifts = []
        for options in task.shifts:
            shift = make_shift(self.observation_space, options)
            self.observation_space = shift.observation_space
            self.shifts.append(shift)
        self._clip_rewards = task.is_atari
        self._returns = np.zeros(n_envs)
        self._lengths = np.zeros(n_envs, dtype=np.int64)
        self._game_frames = np.zeros(n_envs, dtype=np.int64)

    def reset(self, seed: int) -> np.ndarray:
        """Starts an episode in every copy; copy i is seeded with seed + i, as stable-baselines3 does."""
        observations, infos = self.env.reset(seed=seed)
        self._returns[:] = 0
        self._lengths[:] = 0
        self._game_frames = self._frames_of(infos)
        return self._shifted(observations)

    def step(self, actions: np.ndarray) -> Step:
        """One action per copy, already in this task's own action space."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        self._returns += rewards
        self._lengths += 1
        done = terminated | truncated
        observations = self._shifted(observations)
        step = Step(
            observations=observations,
            rewards=np.sign(rewards).astype(np.float32) if self._clip_rewards else rewards.astype(np.float32),
            raw_rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            final=self._final(observations, done, infos) if done.any() else observations,
        )
        if self.task.is_atari or done.any():
            step.episodes = self._finished(done, infos)
        return step

    def render(self) -> list[np.ndarray]:
        """An RGB frame of each copy; needs `render=True`."""
        frames = self.env.render()
        assert frames is not None
        return list(frames)  # type: ignore[arg-type]

    def close(self) -> None:
        """Frees the environments."""
        self.env.close()

    def _shifted(self, observations: np.ndarray) -> np.ndarray:
        for shift in self.shifts:
            observations = shift.observations(observations)
        return observations

    def _final(self, observations: np.ndarray, done: np.ndarray, infos: dict[str, Any]) -> np.ndarray:
        final = observations.copy()
        ended = np.flatnonzero(done)
        final[ended] = self._shifted(np.stack([infos["final_obs"][i] for i in ended]))
        return final

    def _finished(self, done: np.ndarray, infos: dict[str, Any]) -> list[Episode]:
        """Episodes that really ended. A lost life in Atari terminates for the learner, but the game goes on."""
        frames = self._frames_of(infos)
        over = frames < self._game_frames if self.task.is_atari and "lives" in infos else done
        self._game_frames = frames
        episodes = [Episode(int(i), float(self._returns[i]), int(self._lengths[i])) for i in np.flatnonzero(over)]
        self._returns[over] = 0
        self._lengths[over] = 0
        return episodes

    def _frames_of(self, infos: dict[str, Any]) -> np.ndarray:
        """Frames played in the current game of each copy: falls when a game restarts."""
        return np.array(infos.get("episode_frame_number", self._game_frames))


def spaces_of(task: Task) -> tuple[spaces.Space, spaces.Space]:
    """(observation space, action space) of a task, shifts included."""
    env = TaskEnv(task, n_envs=1)
    try:
        return env.observation_space, env.action_space
    finally:
        env.close()


def _make_vector_env(task: Task, n_envs: int, render: bool) -> VectorEnv:
    try:
        if task.is_atari:
            return _make_atari(task, n_envs, render)
        native = task.env.startswith("isorl/") and not render
        return gymnasium.make_vec(
            task.env,
            num_envs=n_envs,
            vectorization_mode="vector_entry_point" if native else "sync",
            vector_kwargs=None if native else {"autoreset_mode": AutoresetMode.SAME_STEP},
            **task.kwargs,
            **({"render_mode": "rgb_array"} if render else {}),
        )
    except (gymnasium.error.Error, TypeError, AssertionError, ImportError) as error:
        raise UserError(f"Task '{task.name}' ({task.env}) cannot be made: {error}{_missing_extra(error)}") from None


def _make_atari(task: Task, n_envs: int, render: bool) -> VectorEnv:
    kwargs = {**ATARI_DEFAULTS, **task.kwargs}
    if render:
        return _make_classic_atari(task.env, n_envs, kwargs)
    return gymnasium.make_vec(
        task.env,
        num_envs=n_envs,
        vectorization_mode="vector_entry_point",
        autoreset_mode=AutoresetMode.SAME_STEP,
        life_loss_info=True,  # terminated at a lost life while the game goes on; episodic_life would reset the game
        reward_clipping=False,  # the sign is taken in TaskEnv, so that raw returns stay known
        **kwargs,
    )


def _make_classic_atari(env_id: str, n_envs: int, kwargs: dict[str, Any]) -> VectorEnv:
    """The same game through Gymnasium's wrappers: slower, but it can draw. FIRE starts the game where it must."""
    from stable_baselines3.common.atari_wrappers import FireResetEnv

    emulator = {**kwargs, "frameskip": 1}

    def make() -> gymnasium.Env:
        env = gymnasium.make(env_id, render_mode="rgb_array", **emulator)
        env = gymnasium.wrappers.AtariPreprocessing(env, frame_skip=kwargs["frameskip"])
        minimal = [action.name for action in env.unwrapped.ale.getMinimalActionSet()]  # type: ignore[attr-defined]
        if "FIRE" in minimal:
            env = FireResetEnv(env)
        return gymnasium.wrappers.FrameStackObservation(env, 4)

    return gymnasium.vector.SyncVectorEnv([make] * n_envs, autoreset_mode=AutoresetMode.SAME_STEP)


def _missing_extra(error: Exception) -> str:
    for word, extra in EXTRAS.items():
        if word in str(error).lower():
            return f" Install it with: pip install -e '.[{extra}]'"
    return ""
