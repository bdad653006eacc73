"""One observation space and one action space for all tasks of a sequence.

The rules:
  observations  equal spaces stay as they are. Vectors of different length are filled up with zeros at the end;
                mixed float types become float32. Images (C, H, W) of different size are resized to the largest.
                An announced task is appended: one-hot numbers, or one image plane per task, bright for the present.
  actions       equal spaces stay as they are. Discrete spaces of different size become the largest, and a task
                with n actions reads action a as a mod n, so no action reaches an environment that lacks it and
                a uniformly random agent stays uniform where n divides the largest size. Continuous spaces become
                [-1, 1]^D for the largest D, and a task of d numbers reads the first d, scaled to its own bounds.
Anything else is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from isorl.configs import UserError

Transform = Callable[[np.ndarray], np.ndarray]
"""Of a batch, first axis n_envs."""


@dataclass(frozen=True)
class CommonSpaces:
    """Holds the spaces that the agent sees during the whole sequence."""

    observation: spaces.Box
    action: spaces.Space
    announced: int = 0
    """Number of tasks where the present one is part of the observation, else 0."""

    def from_task(self, space: Any, task_index: int) -> list[Transform]:
        """Returns what turns a task's observations into common ones; empty where nothing has to be done."""
        steps: list[Transform] = []
        shape = self.observation.shape
        if len(shape) == 3:
            if space.shape[1:] != shape[1:]:
                steps.append(lambda batch: _resized(batch, shape[1:]))
        elif space.shape[0] < shape[0] - self.announced:
            missing = shape[0] - self.announced - space.shape[0]
            steps.append(lambda batch: np.pad(batch, ((0, 0), (0, missing))))
        if space.dtype != self.observation.dtype:
            steps.append(lambda batch: batch.astype(self.observation.dtype))
        if self.announced:
            label = np.zeros((self.announced, *shape[1:]), self.observation.dtype)
            label[task_index] = _bright(self.observation)
            steps.append(lambda batch: np.concatenate([batch, np.stack([label] * len(batch))], axis=1))
        return steps

    def to_task(self, space: spaces.Space) -> list[Transform]:
        """Returns what turns the agent's actions into a task's; empty where nothing has to be done."""
        if space == self.action:
            return []
        if isinstance(space, spaces.Discrete):
            return [lambda actions: actions % space.n]
        assert isinstance(space, spaces.Box)
        size, low, width = space.shape[0], space.low, (space.high - space.low) / 2
        return [lambda actions: low + (actions[:, :size] + 1) * width]


def unify(
    names: Sequence[str], pairs: Sequence[tuple[spaces.Space, spaces.Space]], announce: bool = False
) -> CommonSpaces:
    """Returns the common spaces of tasks with (observation, action) spaces `pairs`.

    Raises:
        UserError: spaces that no rule covers, with the two tasks that disagree.
    """
    observations, actions = zip(*pairs, strict=True)
    observation, action = _common_observation(names, observations), _common_action(names, actions)
    if not announce:
        return CommonSpaces(observation, action)
    return CommonSpaces(_with_label(observation, len(names)), action, len(names))


def _common_observation(names: Sequence[str], given: Sequence[spaces.Space]) -> spaces.Box:
    boxes = [_checked_box(name, space) for name, space in zip(names, given, strict=True)]
    first = boxes[0]
    if all(box == first for box in boxes):
        return first
    for name, box in zip(names, boxes, strict=True):
        if len(box.shape) != len(first.shape):
            _refuse_observation(names[0], first, name, box, "vectors and images do not mix")
        if len(box.shape) == 3 and (box.shape[0], box.dtype) != (first.shape[0], first.dtype):
            _refuse_observation(names[0], first, name, box, "only images of as many channels are resized")
    if len(first.shape) == 3:
        height, width = (max(box.shape[axis] for box in boxes) for axis in (1, 2))
        return spaces.Box(
            first.low.min(), first.high.max(), (first.shape[0], height, width), first.dtype.type
        )
    same_dtype = all(box.dtype == first.dtype for box in boxes)
    dtype = first.dtype.type if same_dtype else np.float32
    longest = max(box.shape[0] for box in boxes)
    low, high = (-np.inf, np.inf) if np.issubdtype(dtype, np.floating) else (0, 255)
    return spaces.Box(low, high, (longest,), dtype)


def _checked_box(name: str, space: spaces.Space) -> spaces.Box:
    if isinstance(space, spaces.Box) and len(space.shape) in (1, 3):
        return space
    raise UserError(
        f"Task '{name}' has observations {space}; the agents read vectors and images. "
        "Give the task `wrappers: [FlattenObservation]`."
    )


def _refuse_observation(first: str, space: spaces.Box, name: str, other: spaces.Box, why: str) -> None:
    raise UserError(
        f"The observations of task '{name}' ({other}) cannot share one space with those of '{first}' "
        f"({space}): {why}. Gymnasium's wrappers can change them (`wrappers:` of the task)."
    )


def _common_action(names: Sequence[str], given: Sequence[spaces.Space]) -> spaces.Space:
    first = given[0]
    for name, space in zip(names, given, strict=True):
        discrete = isinstance(space, spaces.Discrete) and space.start == 0
        bounded = isinstance(space, spaces.Box) and len(space.shape) == 1 and space.is_bounded()
        if not (discrete or bounded):
            raise UserError(
                f"Task '{name}' has actions {space}; the agents know Discrete from 0 and bounded Box vectors."
            )
        if type(space) is not type(first):
            raise UserError(
                f"Task '{name}' has actions {space}, which cannot share one space with '{names[0]}' ({first}): "
                "discrete and continuous actions do not mix."
            )
    if all(space == first for space in given):
        return first
    if isinstance(first, spaces.Discrete):
        return spaces.Discrete(max(int(space.n) for space in given))  # type: ignore[attr-defined]
    return spaces.Box(-1.0, 1.0, (max(space.shape[0] for space in given),), np.float32)  # type: ignore[index]


def _with_label(space: spaces.Box, count: int) -> spaces.Box:
    planes = (count, *space.shape[1:])
    low = np.concatenate([space.low, np.zeros(planes, space.dtype)])
    high = np.concatenate([space.high, np.full(planes, _bright(space), space.dtype)])
    return spaces.Box(low, high, dtype=space.dtype.type)


def _bright(space: spaces.Box) -> int:
    return 255 if space.dtype == np.uint8 and len(space.shape) == 3 else 1


def _resized(images: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """(n, C, h, w) -> (n, C, *size), by area."""
    import cv2

    planes = images.reshape(-1, *images.shape[2:])
    planes = np.stack([cv2.resize(plane, size[::-1], interpolation=cv2.INTER_AREA) for plane in planes])
    return planes.reshape(*images.shape[:2], *size)


def channels_first(space: Any) -> Transform | None:
    """Returns what makes images (H, W, C) of 1, 3 or 4 channels (C, H, W), as stable-baselines3 does; or None."""
    shape = getattr(space, "shape", None)
    if not isinstance(space, spaces.Box) or len(shape) != 3 or space.dtype != np.uint8:  # type: ignore[arg-type]
        return None
    if shape[2] not in (1, 3, 4) or shape[0] in (1, 3, 4):  # type: ignore[index]
        return None
    return lambda batch: np.ascontiguousarray(np.moveaxis(batch, -1, 1))
