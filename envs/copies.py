"""Copies of one Gymnasium environment, each able to continue an episode that was saved in the middle.

Most environments cannot be asked for their state, but an episode follows from where it began and the actions since:
so each copy notes both, and is restored by playing the episode again (quick, and exact for whatever draws its
chance from its own `np_random`). Memory and time grow with the length of one episode.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from isorl.envs import chance as chances
from isorl.envs.failures import Failures

LOG = logging.getLogger("isorl")


OF_MAKE = ("max_episode_steps", "disable_env_checker")
"""Arguments of gymnasium.make itself, which no environment gets."""


def spec_with(env_id: str, arguments: Mapping[str, Any]) -> EnvSpec:
    """Returns an environment's registration with its arguments, of which gymnasium.make could take no `id`."""
    spec = copy.deepcopy(gymnasium.spec(env_id))
    spec.kwargs = {**spec.kwargs, **arguments}
    return spec


def make_env(env_id: str, arguments: Mapping[str, Any]) -> gymnasium.Env:
    """Makes a registered environment as gymnasium.make does, whatever the names of its arguments."""
    own = {key: value for key, value in arguments.items() if key not in OF_MAKE}
    return gymnasium.make(
        spec_with(env_id, own), **{key: value for key, value in arguments.items() if key in OF_MAKE}
    )


class Copy(gymnasium.Wrapper):
    """Plays one copy of a task; where the task drifts, the environment is made anew for each episode.

    Args:
        make: from the environment's arguments to an environment.
        kwargs: the arguments; those that drift have their first value here.
        drift: the value of drifting arguments at the end.
        drift_steps: agent steps of this copy until then.
    """

    def __init__(
        self,
        make: Callable[[Mapping[str, Any]], gymnasium.Env],
        kwargs: Mapping[str, Any],
        drift: Mapping[str, float],
        drift_steps: int,
    ) -> None:
        super().__init__(make(kwargs))
        self._make, self._kwargs, self._drift, self._drift_steps = make, dict(kwargs), drift, drift_steps
        self.steps = 0
        self._begun: dict[str, Any] = {}
        self._actions: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """Starts an episode; a seed also starts the drift anew, or where it stood after `options["steps"]`."""
        options = dict(options or {})
        steps = options.pop("steps", 0)
        if seed is not None:
            self.steps = steps
        if self._drift:
            self._remake()
        self._begun = {"steps": self.steps, "seed": seed, **({} if seed is not None else self._chance())}
        self._actions.clear()
        _renew_world(self.unwrapped)
        return self.env.reset(seed=seed, options=options or None)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        """Makes one agent step."""
        self.steps += 1
        self._actions.append(np.array(action))  # the caller may write the next ones into the same array
        return self.env.step(action)

    def state_dict(self) -> dict[str, Any]:
        """Returns how the present episode began, and its actions."""
        return {**self._begun, "actions": np.array(self._actions)}

    def load_state_dict(self, state: Mapping[str, Any]) -> Any:
        """Plays the saved episode again; returns its latest observation."""
        self.steps = state["steps"]
        if state["seed"] is None:
            self._set_chance(state)
        observation, _ = self.reset(seed=state["seed"], options={"steps": state["steps"]})
        for action in state["actions"]:
            observation, *_ = self.step(action)
        return observation

    def _remake(self) -> None:
        progress = min(self.steps / self._drift_steps, 1.0)
        now = {
            key: self._kwargs[key] + progress * (end - self._kwargs[key]) for key, end in self._drift.items()
        }
        chance = self._chance()
        self.env.close()
        self.env = self._make({**self._kwargs, **now})
        chance.pop("emulator", None)  # it holds the argument that drifts
        self._set_chance(chance)

    def _chance(self) -> dict[str, Any]:
        """What random draws will follow: all of an environment that tells its state, else the generator."""
        if hasattr(self.unwrapped, "state_dict"):
            return {"own": self.unwrapped.state_dict()}
        chance: dict[str, Any] = {"random": chances.state_of(self.unwrapped.np_random)}
        emulator = getattr(self.unwrapped, "ale", None)
        if emulator is not None:
            state = emulator.cloneState(include_rng=True).serialize()
            chance["emulator"] = np.frombuffer(state, dtype=np.uint8)
        return chance

    def _set_chance(self, state: Mapping[str, Any]) -> None:
        if "own" in state:
            self.unwrapped.load_state_dict(state["own"])  # type: ignore[attr-defined]
            return
        chances.set_state(self.unwrapped.np_random, state["random"])
        if "emulator" in state:
            from ale_py import ALEState

            self.unwrapped.ale.restoreState(ALEState(np.asarray(state["emulator"]).tobytes()))  # type: ignore[attr-defined]


def _renew_world(env: Any) -> None:
    """Gives a Box2D environment a new world, as LunarLander does itself.

    BipedalWalker and CarRacing keep theirs, and its contact solver remembers earlier episodes: the only environments
    of Gymnasium whose episodes do not follow from their beginning alone.
    """
    if hasattr(env, "world") and hasattr(env, "_destroy"):
        env._destroy()
        env.world = type(env.world)(gravity=env.world.gravity)


def seed_of_restart(seed: int, number: int, restarts: int) -> int:
    """Returns the seed of copy `number`, reset with `seed`, when it is made anew as the `restarts`-th of all."""
    return int(np.random.SeedSequence([seed, number, restarts]).generate_state(1)[0] >> 1)


class Copies(SyncVectorEnv):
    """Steps copies as Gymnasium's SyncVectorEnv with same-step autoreset does, and knows the state of each."""

    def __init__(self, env_fns: list[Callable[[], gymnasium.Env]], failures: Failures | None = None) -> None:
        super().__init__(env_fns, autoreset_mode=AutoresetMode.SAME_STEP)
        self._failures = failures or Failures()
        self._latest = self._observations
        self._seed, self._steps = 0, 0  # of the latest reset, and since then: for copies that are made anew

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode in every copy, seeded with seed + i and drifted for options["steps"]."""
        self._seed, self._steps = int(seed), (options or {}).get("steps", 0)
        observations = np.empty_like(self._observations)
        for i, env in enumerate(self.envs):
            try:
                observations[i] = self._begun(env, seed + i)[0]
            except Exception as error:
                observations[i] = self._restarted(i, error)
        self._latest = observations
        return observations, {}

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Takes (num_envs, ...) actions; returns what SyncVectorEnv does.

        Of the infos, those at the end of an episode: `final_obs`, `life_lost`, `is_success`, `failed`.

        The reset that follows the end of an episode belongs to the step: where it fails, the step has failed.
        """
        self._steps += 1
        observations = np.empty_like(self._observations)
        rewards = np.empty(self.num_envs)
        terminated, truncated = np.empty((2, self.num_envs), dtype=bool)
        infos: dict[str, Any] = {}
        for i, env in enumerate(self.envs):
            try:
                observation, rewards[i], terminated[i], truncated[i], told = env.step(actions[i])
                self._check_shape(observation)
                if terminated[i] or truncated[i]:
                    infos.setdefault("final_obs", np.empty(self.num_envs, dtype=object))[i] = np.array(
                        observation
                    )  # an environment may write the next one into the same array
                    if "is_success" in told:
                        infos.setdefault("is_success", np.zeros(self.num_envs, bool))[i] = told["is_success"]
                    observation, info = self._begun(env)
                    if "life_lost" in info:
                        infos.setdefault("life_lost", np.zeros(self.num_envs, dtype=bool))[i] = True
                observations[i] = observation
            except Exception as error:
                observations[i] = self._restarted(i, error)
                rewards[i], terminated[i], truncated[i] = 0, False, True
                infos.setdefault("final_obs", np.empty(self.num_envs, dtype=object))[i] = self._latest[i]
                infos.setdefault("failed", np.zeros(self.num_envs, dtype=bool))[i] = True
        self._latest = observations
        return observations, rewards, terminated, truncated, infos

    def _begun(self, env: gymnasium.Env, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Observation and info at the beginning of an episode."""
        observation, info = env.reset(seed=seed, options={"steps": self._steps})
        self._check_shape(observation)
        return observation, info

    def _check_shape(self, observation: Any) -> None:
        shape = self._observations.shape[1:]
        if np.shape(observation) != shape:
            raise ValueError(f"the observation has shape {np.shape(observation)}, its space {shape}")

    def _restarted(self, number: int, error: Exception) -> Any:
        """First observation of a copy that is made anew, where that is wanted."""
        if self._failures.config.environment == "stop":
            raise _of_copy(number, error) from error
        self._failures.counts["restarts"] += 1
        LOG.warning("copy %d is made anew: %s: %s", number, type(error).__name__, error)
        with contextlib.suppress(Exception):
            self.envs[number].close()
        try:
            self.envs[number] = self.env_fns[number]()
            seed = seed_of_restart(self._seed, number, self._failures.counts["restarts"])
            return self._begun(self.envs[number], seed)[0]
        except Exception as again:
            raise _of_copy(number, again) from again

    def state_dict(self) -> dict[str, Any]:
        """Returns the states of the copies."""
        copies = [env.get_wrapper_attr("state_dict")() for env in self.envs]
        return {"copies": copies, "seed": self._seed, "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> np.ndarray:
        """Restores every copy; returns the observations."""
        self._seed, self._steps = state["seed"], state["steps"]
        pairs = zip(self.envs, state["copies"], strict=True)
        self._latest = np.stack([env.get_wrapper_attr("load_state_dict")(copy) for env, copy in pairs])
        return self._latest


def _of_copy(number: int, error: Exception) -> RuntimeError:
    return RuntimeError(f"copy {number}: {type(error).__name__}: {error}")
