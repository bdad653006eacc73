"""Atari 2600 games, preprocessed as usual: 84x84 grey, 4 frames stacked, 4 frames per agent step, (4, 84, 84) uint8.

Two ways lead to the same frames and rewards (tests/envs/test_atari.py compares them):
  native    ale_py's AtariVectorEnv: all copies in C++ threads
  classic   Gymnasium's wrappers around one emulator per copy: where a game is played in another mode or
            difficulty, which the native environment cannot choose, or where frames are drawn

Decided for both. A lost life terminates for the learner, but the game goes on: nothing is reset, no FIRE is pressed
(stable-baselines3's wrappers do both; sticking to the game leaves its states reachable) and the frame stack is kept.
At the start of a game up to 30 no-op frames are played and then FIRE is pressed for one frame (the full action set
has it in every game); the three older frames of the stack are black. `infos["life_lost"]` is true where a
termination was a lost life rather than the end of the game.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from isorl.envs.copies import make_env

DEFAULTS: dict[str, Any] = {
    "frameskip": 4,
    "full_action_space": True,  # 18 actions for every game: one head serves the whole sequence
    "repeat_action_probability": 0.25,  # sticky actions, Machado et al. 2018
}
CLASSIC_ONLY = ("mode", "difficulty")
RESEED_EVERY = 10_000
"""Agent steps of a copy after which its next game starts from a new seed (0.1 s, a hundredth of their time)."""


def needs_classic(kwargs: Mapping[str, Any]) -> bool:
    """Says whether the native environment cannot play with these arguments."""
    return any(key in kwargs for key in CLASSIC_ONLY)


def make_native(env_id: str, n_envs: int, kwargs: Mapping[str, Any]) -> NativeAtari:
    """Makes `n_envs` copies of a game in C++."""
    env = gymnasium.make_vec(
        env_id,
        num_envs=n_envs,
        vectorization_mode="vector_entry_point",
        autoreset_mode=AutoresetMode.SAME_STEP,
        life_loss_info=True,  # terminated at a lost life while the game goes on; episodic_life would reset the game
        reward_clipping=False,  # the sign is taken in TaskEnv, so that raw returns stay known
        **{**DEFAULTS, **kwargs},
    )
    return NativeAtari(env)


class NativeAtari(VectorWrapper):
    """Adds `life_lost` and an exact state to AtariVectorEnv.

    The emulators' state cannot be read from outside, so the actions since each copy's last seed are kept and
    played again. That replay is short because a copy is seeded anew at its first new game after RESEED_EVERY steps.
    """

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env)
        self._seeds = np.zeros(self.num_envs, dtype=np.int64)
        self._starts = np.zeros(self.num_envs, dtype=np.int64)  # the copy's first action in `_actions`
        self._actions: list[np.ndarray] = []
        self._frames = np.zeros(self.num_envs, dtype=np.int64)  # played in the present game

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts a game in every copy, seeded with seed + copy."""
        assert seed is not None, "without a seed the state could not be restored"
        return self._seeded(np.arange(seed, seed + self.num_envs) % 2**31)

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Makes one agent step in every copy."""
        self._actions.append(np.array(actions, dtype=np.int64))
        observations, rewards, terminated, truncated, infos = self.env.step(self._actions[-1])
        frames, self._frames = self._frames, infos["episode_frame_number"]
        done = terminated | truncated
        if done.any():
            game_over = self._frames < frames
            infos["life_lost"] = life_lost = done & ~game_over
            # ale_py leaves stale memory here where the game goes on
            infos["final_obs"][life_lost] = observations[life_lost]
            old = len(self._actions) - self._starts >= RESEED_EVERY
            if (game_over & old).any():
                observations = self._reseed(game_over & old)
        return observations, rewards, terminated, truncated, infos

    def state_dict(self) -> dict[str, Any]:
        """Returns seed and first action of each copy since it was seeded, and the actions of all."""
        return {
            "seeds": self._seeds.copy(),
            "starts": self._starts.copy(),
            "actions": np.array(self._actions, dtype=np.int64),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> np.ndarray:
        """Plays the actions again; returns the latest observations."""
        seeds, starts = np.asarray(state["seeds"]), np.asarray(state["starts"])
        observations, _ = self._seeded(seeds)
        for step, actions in enumerate(state["actions"]):
            late = (starts == step) & (step > 0)  # until here such a copy played anything
            if late.any():
                self._seed_copies(late, seeds)
            observations, *_, infos = self.env.step(np.asarray(actions))
            self._frames = infos["episode_frame_number"]
        late = (starts == len(state["actions"])) & (starts > 0)
        if late.any():
            observations = self._seed_copies(late, seeds)
        self._starts, self._actions = starts.copy(), list(np.asarray(state["actions"]))
        return observations

    def _seeded(self, seeds: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        self._seeds, self._starts = seeds.copy(), np.zeros(self.num_envs, dtype=np.int64)
        self._actions = []
        observations, infos = self.env.reset(seed=seeds)  # type: ignore[arg-type]
        self._frames = infos["episode_frame_number"]
        return observations, infos

    def _reseed(self, copies: np.ndarray) -> np.ndarray:
        """New seeds follow from the old; actions that no copy needs any more are forgotten."""
        for copy in np.flatnonzero(copies):
            self._seeds[copy] = np.random.SeedSequence(int(self._seeds[copy])).generate_state(1)[0] >> 1
        self._starts[copies] = len(self._actions)
        observations = self._seed_copies(copies, self._seeds)
        forgotten = int(self._starts.min())
        del self._actions[:forgotten]
        self._starts -= forgotten
        return observations

    def _seed_copies(self, copies: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        observations, infos = self.env.reset(seed=seeds[copies], options={"reset_mask": copies})
        self._frames = infos["episode_frame_number"]
        return observations


def make_classic(env_id: str, kwargs: Mapping[str, Any]) -> gymnasium.Env:
    """Makes one copy of a game through Gymnasium's wrappers; LifeLost goes around it last."""
    options = {**DEFAULTS, **kwargs}
    frame_skip, noop_max = options.pop("frameskip"), options.pop("noop_max", 30)
    env = make_env(env_id, {**options, "frameskip": 1})
    env = GameStart(env, noop_max)
    env = gymnasium.wrappers.AtariPreprocessing(env, noop_max=0, frame_skip=frame_skip)
    return gymnasium.wrappers.FrameStackObservation(env, 4, padding_type="zero")


class GameStart(gymnasium.Wrapper):
    """Starts a game as the native environment does: no-op frames, then one frame of FIRE, at most `noop_max` in all."""

    def __init__(self, env: gymnasium.Env, noop_max: int) -> None:
        super().__init__(env)
        self._noop_max = noop_max
        meanings = env.unwrapped.get_action_meanings()  # type: ignore[attr-defined]
        self._fire = meanings.index("FIRE") if "FIRE" in meanings else None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """Starts a game."""
        observation, info = self.env.reset(seed=seed, options=options)
        frames = int(self.np_random.integers(1, self._noop_max + 1)) if self._noop_max else 0
        actions = [0] * (frames - 1 if self._fire is not None else frames)
        if self._fire is not None:
            actions.append(self._fire)
        for action in actions:
            observation, _, _, _, info = self.env.step(action)
        return observation, info


class LifeLost(gymnasium.Wrapper):
    """Terminates at a lost life; the reset that follows changes nothing, for the game goes on."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self._lives: Callable[[], int] = env.unwrapped.ale.lives  # type: ignore[attr-defined]
        self._left = 0
        self._current: tuple[Any, dict] | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """Starts a game, or goes on after a lost life."""
        goes_on, self._current = self._current, None
        if goes_on is not None and seed is None:
            return goes_on[0], {**goes_on[1], "life_lost": True}
        observation, info = self.env.reset(seed=seed, options=options)
        self._left = self._lives()
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        """Makes one agent step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        left, self._left = self._left, self._lives()
        if self._left < left and not (terminated or truncated):
            self._current = observation, info
            return observation, reward, True, truncated, info
        return observation, reward, terminated, truncated, info

    def load_state_dict(self, state: Mapping[str, Any]) -> Any:
        """Restores the copy inside."""
        observation = self.env.get_wrapper_attr("load_state_dict")(state)
        self._left = self._lives()
        return observation
