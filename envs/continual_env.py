"""A whole sequence of tasks as one Gymnasium environment, for agents of other libraries: `isorl/Stream-v0`.

env = gymnasium.make("isorl/Stream-v0", sequence="minatar_switch", seed=0)
envs = gymnasium.make_vec(
    "isorl/Stream-v0", num_envs=8, vectorization_mode="vector_entry_point", sequence="minatar_switch", seed=0
)

A switch truncates the episode; the next observation is the new task's first. `info["task"]` is the index of the task
that the observation belongs to, `info["visit"]` counts the stays, `info["agent_steps"]` is summed over the copies, and
`info["finished"]` says that the sequence is over: what follows stays in its last task. `info["episode"]` holds the raw
return "r" and the length "l" of an episode that ended by itself, `info["is_success"]` whether it was one, where the
environment says so. Rewards are those that isorl's own agents learn from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from isorl.configs import SequenceConfig
from isorl.configs.command_line import check_overrides, composed, resolve
from isorl.envs.sequence import Sequence
from isorl.envs.switching import SwitchingVecEnv


def sequence_of(sequence: str | SequenceConfig, overrides: tuple[str, ...] = ()) -> SequenceConfig:
    """Returns the sequence of that name, changed by words as the command line takes them, such as `game=Pong`.

    Raises:
        UserError: an unknown name or word, with the nearest that there is.
    """
    if isinstance(sequence, SequenceConfig):
        return sequence
    return resolve(composed(check_overrides(["run_dir=''", f"sequence={sequence}", *overrides]))).sequence


class ContinualVectorEnv(VectorEnv):
    """Plays a sequence in `num_envs` copies, with same-step autoreset.

    Args:
        num_envs: number of copies.
        sequence: the name of one, or its configuration.
        seed: of the draws that make the tasks, and of the episodes until `reset` is given another.
        overrides: words that change the sequence, as on the command line.

    Raises:
        UserError: a sequence that does not exist or cannot be played.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        sequence: str | SequenceConfig = "nine_rooms-short",
        seed: int = 0,
        overrides: tuple[str, ...] = (),
    ) -> None:
        self.num_envs = num_envs
        self.sequence = Sequence.from_config(sequence_of(sequence, tuple(overrides)), seed, num_envs)
        self.stream = SwitchingVecEnv(self.sequence, num_envs, seed)
        self.single_observation_space = self.stream.common.observation
        self.single_action_space = self.stream.common.action
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode of the present task in every copy; with a seed (a list counts by its first), all anew."""
        seed = seed[0] if isinstance(seed, list) else seed
        super().reset(seed=seed)
        if seed is not None:
            common = self.stream.common
            self.stream.close()
            self.stream = SwitchingVecEnv(self.sequence, self.num_envs, seed, common)
        return self.stream.reset(), self._place()

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Takes (num_envs, ...) actions; last observations of ended episodes stand in infos["final_obs"]."""
        observations: Any
        observations, rewards, done, infos = self.stream.step(np.asarray(actions))
        truncated = np.array([info.get("TimeLimit.truncated", False) for info in infos])
        gathered = self._place()
        if done.any():
            gathered["final_obs"] = np.empty(self.num_envs, dtype=object)
            gathered["_final_obs"] = done.copy()
            for copy in np.flatnonzero(done):
                gathered["final_obs"][copy] = infos[copy]["terminal_observation"]
        if (ended := np.array(["episode" in info for info in infos])).any():
            episodes = [info.get("episode", {"r": 0.0, "l": 0}) for info in infos]
            gathered["episode"] = {
                key: np.array([episode[key] for episode in episodes]) for key in ("r", "l")
            }
            gathered["_episode"] = ended
            if any("is_success" in info for info in infos):
                gathered["is_success"] = np.array([info.get("is_success", False) for info in infos])
                gathered["_is_success"] = ended
        return observations, rewards, done & ~truncated, truncated, gathered

    def state_dict(self) -> dict[str, Any]:
        """Returns the place in the sequence and the tasks in mid-episode: plain values and arrays."""
        return self.stream.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was called; the observation there is known to who called it."""
        self.stream.load_state_dict(state)

    def close_extras(self, **kwargs: Any) -> None:
        """Frees the environments."""
        self.stream.close()

    def _place(self) -> dict[str, Any]:
        visit = self.stream.visit
        values = {
            "task": visit.task.index,
            "visit": visit.number,
            "agent_steps": self.stream.agent_steps,
            "finished": self.stream.finished,
        }
        return {key: np.full(self.num_envs, value) for key, value in values.items()}


class ContinualEnv(gymnasium.Env):
    """Plays a sequence with the interface of gymnasium.make.

    Args:
        kwargs: of ContinualVectorEnv, but for the number of copies.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, **kwargs: Any) -> None:
        self.vector = ContinualVectorEnv(1, **kwargs)
        self.observation_space = self.vector.single_observation_space
        self.action_space = self.vector.single_action_space
        self._next: tuple[np.ndarray, dict[str, Any]] | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode, of the new task after a switch; with a seed, the whole sequence anew."""
        super().reset(seed=seed)
        begun, self._next = self._next, None
        if begun is None or seed is not None:
            begun = self.vector.reset(seed=seed)
        return begun[0][0], _of_one(begun[1])

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Makes one step; after the end of an episode, `reset` goes on."""
        before = self.vector._place()
        observations, rewards, terminated, truncated, infos = self.vector.step(np.asarray([action]))
        observation = observations[0]
        if "final_obs" in infos:
            self._next = observations, self.vector._place()
            observation = infos["final_obs"][0]
            infos |= {
                key: before[key] for key in ("task", "visit")
            }  # the last observation is of the old task
        return observation, float(rewards[0]), bool(terminated[0]), bool(truncated[0]), _of_one(infos)

    def close(self) -> None:
        """Frees the environment."""
        self.vector.close()


def _of_one(infos: Mapping[str, Any]) -> dict[str, Any]:
    """The infos of a single copy: plain values."""
    info = {key: infos[key][0].item() for key in ("task", "visit", "agent_steps", "finished")}
    if "episode" in infos:
        info["episode"] = {key: values[0].item() for key, values in infos["episode"].items()}
    if "is_success" in infos:
        info["is_success"] = infos["is_success"][0].item()
    return info
