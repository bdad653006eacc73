"""One observation space and one action space for all tasks of a sequence.

The rules:
  observations  equal spaces stay as they are; vectors of different length are filled up with zeros at the end;
                anything else is refused.
  actions       equal spaces stay as they are; discrete spaces of different size become the largest, and a task
                with n actions reads action a as a mod n, so no action reaches an environment that lacks it and
                a uniformly random agent stays uniform where n divides the largest size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

from configs import UserError


@dataclass(frozen=True)
class CommonSpaces:
    """The spaces that the agent sees during the whole sequence."""

    observation: spaces.Space
    action: spaces.Space

    def pad(self, observations: np.ndarray) -> np.ndarray:
        """(..., d) of a task -> (..., D) with zeros after the first d values; images and equal shapes pass."""
        missing = self.observation.shape[-1] - observations.shape[-1]  # type: ignore[index]
        if missing == 0:
            return observations
        padding = [(0, 0)] * (observations.ndim - 1) + [(0, missing)]
        return np.pad(observations, padding)

    def to_task(self, actions: np.ndarray, task_space: spaces.Space) -> np.ndarray:
        """Actions of the agent -> actions of a task: a mod n where the task has n discrete actions."""
        if isinstance(task_space, spaces.Discrete) and task_space != self.action:
            return actions % task_space.n
        return actions


def unify(names: Sequence[str], pairs: Sequence[tuple[spaces.Space, spaces.Space]]) -> CommonSpaces:
    """The common spaces of tasks with (observation, action) spaces `pairs`.

    Raises:
        UserError: spaces that no rule covers, with the two tasks that disagree.
    """
    observations, actions = zip(*pairs, strict=True)
    return CommonSpaces(_common_observation(names, observations), _common_action(names, actions))


def _common_observation(names: Sequence[str], given: Sequence[spaces.Space]) -> spaces.Space:
    for name, space in zip(names, given, strict=True):
        if not isinstance(space, spaces.Box):
            raise UserError(
                f"Task '{name}' has observations {space}; only Box is supported. "
                "Wrap it with gymnasium.wrappers.FlattenObservation."
            )
    if all(space == given[0] for space in given):
        return given[0]
    for name, space in zip(names, given, strict=True):
        if len(space.shape) != 1 or space.dtype != given[0].dtype:  # type: ignore[arg-type]
            raise UserError(
                f"The observations of task '{name}' ({space}) cannot share one space with those of the other "
                f"tasks ('{names[0]}': {given[0]}): only vectors of one dtype are padded."
            )
    longest = max(space.shape[0] for space in given)  # type: ignore[index]
    return spaces.Box(-np.inf, np.inf, (longest,), given[0].dtype)  # type: ignore[arg-type]


def _common_action(names: Sequence[str], given: Sequence[spaces.Space]) -> spaces.Space:
    if all(space == given[0] for space in given):
        return given[0]
    for name, space in zip(names, given, strict=True):
        if not isinstance(space, spaces.Discrete) or space.start != 0:
            raise UserError(
                f"Task '{name}' has actions {space}, which cannot share one space with '{names[0]}' "
                f"({given[0]}): only discrete actions of different number are mapped."
            )
    return spaces.Discrete(max(int(space.n) for space in given))  # type: ignore[attr-defined]
