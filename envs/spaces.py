"""One observation space and one action space for all tasks of a sequence.

The rules:
  observations  equal spaces stay as they are; bits become 0 and 1 in uint8. Vectors of different length are filled
                up with zeros at the end; mixed float types become float32. Images are (C, H, W), turned where their
                channels are last. Those of fewer channels are filled up with planes of zeros at the end, so that
                channel c of a task is channel c of the agent; those of different size are resized to the largest,
                numbers by area, bits by the nearest pixel. An announced task is appended: one-hot numbers, or one
                image plane per task, bright for the present.
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
                bits = _is_bits(self.observation)
                steps.append(lambda batch: _resized(batch, shape[1:], bits))
            if (missing := shape[0] - self.announced - space.shape[0]) > 0:
                steps.append(lambda batch: np.pad(batch, ((0, 0), (0, missing), (0, 0), (0, 0))))
        elif (missing := shape[0] - self.announced - space.shape[0]) > 0:
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
        if len(box.shape) == 3 and (box.dtype, _is_bits(box)) != (first.dtype, _is_bits(first)):
            _refuse_observation(names[0], first, name, box, "images of bits, bytes and floats do not mix")
    if len(first.shape) == 3:
        shape = tuple(max(box.shape[axis] for box in boxes) for axis in range(3))
        low, high = min(box.low.min() for box in boxes), max(box.high.max() for box in boxes)
        if len({box.shape[0] for box in boxes}) > 1:  # planes of zeros are among what is seen
            low, high = min(low, 0), max(high, 0)
        return spaces.Box(low, high, shape, first.dtype.type)
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
        if not (discrete or (bounded and np.issubdtype(space.dtype, np.floating))):
            raise UserError(
                f"Task '{name}' has actions {space}; the agents know Discrete from 0 and bounded Box vectors of floats."
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


def _bright(space: spaces.Box) -> Any:
    return space.high.max() if len(space.shape) == 3 and space.is_bounded() else 1


def _is_bits(space: spaces.Box) -> bool:
    return bool(space.dtype == np.uint8 and space.high.max() <= 1)


def _resized(images: np.ndarray, size: tuple[int, ...], bits: bool) -> np.ndarray:
    """(n, C, h, w) -> (n, C, *size): by area, bits by the nearest pixel."""
    import cv2

    planes, how = images.reshape(-1, *images.shape[2:]), cv2.INTER_NEAREST if bits else cv2.INTER_AREA
    planes = np.stack([cv2.resize(plane, size[::-1], interpolation=how) for plane in planes])
    return planes.reshape(*images.shape[:2], *size)


def image_of(space: Any, channels: str | None, name: str) -> tuple[Any, list[Transform]]:
    """Returns `space` with images as (C, H, W) and no bits, and what makes a task's observations so.

    Bits (bool) become 0 and 1 in uint8, a quarter of the memory of floats; other integers in images become float32.

    Args:
        space: the environment's own.
        channels: "first" or "last", where the task says it.
        name: of the task, for messages.

    Raises:
        UserError: images whose channels could be first or last.
    """
    if not isinstance(space, spaces.Box):
        return space, []
    steps: list[Transform] = []
    is_image = len(space.shape) == 3
    if channels is not None and not is_image:
        raise UserError(
            f"Task '{name}' has 'channels: {channels}', but its observations {space} are no images."
        )
    if is_image and (channels or _channels_of(space, name)) == "last":
        steps.append(lambda batch: np.ascontiguousarray(np.moveaxis(batch, -1, 1)))
    dtype = space.dtype.type
    if dtype == np.bool_:
        dtype = np.uint8
    elif is_image and dtype != np.uint8 and not np.issubdtype(dtype, np.floating):
        dtype = np.float32
    if dtype != space.dtype:
        steps.append(lambda batch: batch.astype(dtype))
    if not steps:
        return space, steps
    low, high = (_applied(steps, bound[None])[0] for bound in (space.low, space.high))
    return spaces.Box(low, high, dtype=dtype), steps


def _applied(steps: list[Transform], batch: np.ndarray) -> np.ndarray:
    for step in steps:
        batch = step(batch)
    return batch


def _channels_of(space: spaces.Box, name: str) -> str:
    """Returns where the channels stand: apart from two equal sides, or where 1, 3 or 4 of them would be usual."""
    first, middle, last = space.shape
    ways = [("first", first, (middle, last)), ("last", last, (first, middle))]
    ways = [way for way in ways if min(way[2]) > 1] or ways  # no picture is one pixel high
    likely = [
        where
        for where, channels, sides in ways
        if sides[0] == sides[1] != channels or (channels in (1, 3, 4) and max(sides) > 4) or len(ways) == 1
    ]
    if len(likely) == 1:
        return likely[0]
    raise UserError(
        f"Task '{name}' shows images of shape {space.shape}, whose channels could be first or last. "
        "Say which: give the task 'channels: first' or 'channels: last'."
    )
