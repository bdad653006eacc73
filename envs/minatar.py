"""MinAtar (Young and Tian 2019, arXiv 1903.03176): five games on 10 x 10 pixels, played by the package `minatar`.

Its own ids, MinAtar/Breakout-v0 and so on, are registered when a sequence names one. What they play here is what
`minatar.gym` plays, seed by seed and step by step, with an exact state, pictures, and a vector environment that steps
the games without wrappers. -v0 has all six actions in every game, -v1 those that do something. MinAtar is GPL-3.0 and
an extra of this project: pip install -e '.[minatar]'.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from matplotlib import colormaps

from isorl.configs import UserError
from isorl.envs import chance
from isorl.envs.numpy_env import NumpyVectorEnv, SingleEnv

CONSTANTS = ("action_map", "channels", "ramping", "random")
"""Attributes of a game that are no part of its state, and its generator, which is saved apart."""
FOREVER = np.iinfo(np.int64).max


def register() -> None:
    """Registers MinAtar's own ids, with the environments of this module behind them; called again, does nothing.

    Raises:
        UserError: MinAtar is not installed.
    """
    try:
        from minatar.gym import register_envs
    except ImportError:
        raise UserError("MinAtar is not installed. Install it with: pip install -e '.[minatar]'") from None
    if "MinAtar/Breakout-v0" not in gymnasium.registry:
        register_envs()
    for spec in gymnasium.registry.values():
        if spec.namespace == "MinAtar":
            spec.entry_point, spec.vector_entry_point = "isorl.envs.minatar:MinAtarEnv", f"{__name__}:MinAtar"


class MinAtar(NumpyVectorEnv):
    """Plays copies of one game, each with a generator of its own: copy i of seed s equals MinAtar's own of seed s + i.

    Observations are (10, 10, C) bool, one plane for each kind of object. Episodes have no limit of their own.

    Args:
        num_envs: number of copies.
        game: asterix, breakout, freeway, seaquest or space_invaders.
        use_minimal_action_set: offer only the actions that do something, not all six.
        sticky_action_prob: probability with which the last action is repeated.
        difficulty_ramping: whether the game becomes harder with time.
        max_episode_steps: agent steps after which an episode is truncated; null: never.
    """

    metadata: dict[str, Any] = {**NumpyVectorEnv.metadata, "channels": "last"}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        game: str = "breakout",
        use_minimal_action_set: bool = False,
        sticky_action_prob: float = 0.1,
        difficulty_ramping: bool = True,
        max_episode_steps: int | None = None,
    ) -> None:
        from minatar import Environment

        self.games = [
            Environment(game, sticky_action_prob=sticky_action_prob, difficulty_ramping=difficulty_ramping)
            for _ in range(num_envs)
        ]
        first = self.games[0]
        self._actions = first.minimal_action_set() if use_minimal_action_set else range(first.num_actions())
        shape = tuple(first.state_shape())
        super().__init__(
            num_envs,
            spaces.Box(0, 1, shape, np.bool_),  # type: ignore[arg-type]  # its text says floats, its code takes bits
            spaces.Discrete(len(self._actions)),
            max_steps=max_episode_steps or FOREVER,
        )
        planes = shape[-1]
        self._colours = (255 * colormaps["turbo"](np.linspace(0.1, 0.9, planes))[:, :3]).astype(np.uint8)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts a game in every copy, seeded with seed + copy."""
        if isinstance(seed, list):
            seed = seed[0]
        if seed is not None:
            for copy, game in enumerate(self.games):
                game.seed((seed + copy) % 2**32)
                game.last_action = 0  # as of a new one
        return super().reset(seed=seed, options=options)

    def begin(self, copies: np.ndarray) -> None:
        """Starts a game in these copies."""
        for copy in np.flatnonzero(copies):
            self.games[copy].reset()

    def advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Makes one move in every game."""
        rewards, terminated = np.empty(self.num_envs, np.float32), np.empty(self.num_envs, bool)
        for copy, (game, action) in enumerate(zip(self.games, actions, strict=True)):
            rewards[copy], terminated[copy] = game.act(self._actions[action])
        return rewards, terminated

    def observe(self) -> np.ndarray:
        """Returns (num_envs, 10, 10, C) bool."""
        return np.stack([game.state() for game in self.games])

    def draw(self, copy: int) -> np.ndarray:
        """Draws every kind of object in a colour of its own, on black."""
        image = np.zeros((10, 10, 3), np.uint8)
        state = self.games[copy].state()
        for plane, colour in enumerate(self._colours):
            image[state[..., plane]] = colour
        return image.repeat(24, axis=0).repeat(24, axis=1)

    def state_dict(self) -> dict[str, Any]:
        """Returns the games as they stand, in mid-episode, with their generators."""
        return {"steps": self.steps.copy(), "games": [_state_of(game) for game in self.games]}

    def load_state_dict(self, state: Mapping[str, Any]) -> np.ndarray:
        """Goes on where `state_dict` was called; returns the observations there."""
        self.steps[:] = state["steps"]
        for game, saved in zip(self.games, state["games"], strict=True):
            chance.set_state(game.random, saved["random"])
            game.env.random, game.last_action = game.random, saved["last_action"]
            vars(game.env).update(deepcopy(saved["variables"]))
        return self.observe()


def _state_of(game: Any) -> dict[str, Any]:
    own = {name: value for name, value in vars(game.env).items() if name not in CONSTANTS}
    return {
        "random": chance.state_of(game.random),
        "last_action": int(game.last_action),
        "variables": {name: _plain(value) for name, value in own.items()},
    }


def _plain(value: Any) -> Any:
    """Returns a copy without numpy's scalars, which a checkpoint does not hold."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value.item() if isinstance(value, np.generic) else deepcopy(value)


class MinAtarEnv(SingleEnv):
    """Plays one copy of MinAtar."""

    VECTOR = MinAtar
    metadata = MinAtar.metadata

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts a game."""
        gymnasium.Env.reset(self, seed=seed)
        return self.vector.reset(seed=seed)[0][0], {}

    def state_dict(self) -> dict[str, Any]:
        """Returns the game as it stands."""
        return self.vector.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state_dict` was called."""
        self.vector.load_state_dict(state)
