"""A classification stream as a vector environment: the observation is an input, the action the predicted label.

A right answer pays 1 / episode_length, so the return of an episode is the online accuracy over `episode_length`
samples of one copy, and n_envs is the batch size. The true labels of what was just answered stand in
`infos["labels"]`: a classifier learns from them, PPO and DQN from the reward alone. What makes a stream
non-stationary are its arguments, drawn anew for each task (`envs/draws.py`), and the shifts of `envs/shifts.py`.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from isorl.configs import UserError, nearest
from isorl.envs import data as data_sets
from isorl.envs.data import DataSet, Part
from isorl.envs.numpy_env import NumpyVectorEnv, SingleEnv

LABELS = ("true", "random", "shuffled")
HEADS = ("all", "masked", "shared")


class Stream(NumpyVectorEnv):
    """Shows each of `num_envs` copies one sample per step, to be answered by its label.

    In training, the samples come in passes over the data, each in a new random order; `num_envs` of them at a
    time, whatever the copy. In a sweep (`sweep`, and always on held-out data), every sample comes exactly once
    per round, in order: copy i gets samples i, i + num_envs, ..., its episode ends with its share, and rewards
    are scaled so that the mean return over the copies is the accuracy over all samples, exactly.

    Args:
        num_envs: number of copies.
        data: name of a data set in `envs/data.py`.
        split: "train", or "test" for the held-out part.
        sweep: go through every sample once, in order.
        samples: use only the first so many samples of the training part.
        episode_length: samples per copy and episode.
        labels: "true"; "random": every sample gets a label drawn uniformly over the task's classes; "shuffled":
            these classes are renamed by a random permutation.
        label_seed: of that draw.
        classes_per_task: split the classes into groups of this size; null: all classes.
        split_index: which group; group i holds classes i k to (i + 1) k - 1 of the class order.
        cumulative: a task holds the classes of the groups before it, too.
        class_order_seed: the order of the classes is a random one; null: 0, 1, 2, ...
        head: of a split. "all": one head over all classes (class-incremental); "masked": only the outputs of the
            task's classes take part, as if each task had its own head (task-incremental); "shared": classes are
            renumbered 0 to k - 1 within the task (domain-incremental; van de Ven and Tolias 2019).
        angle: degrees by which the images are turned, counterclockwise.
        standardise: mean 0 and variance 1 per channel over the training part; else pixels go from 0 to 1.
    """

    STATE = ("order", "current")

    def __init__(
        self,
        num_envs: int = 1,
        data: str = "digits",
        split: str = "train",
        sweep: bool = False,
        samples: int | None = None,
        episode_length: int = 32,
        labels: str = "true",
        label_seed: int = 0,
        classes_per_task: int | None = None,
        split_index: int = 0,
        cumulative: bool = False,
        class_order_seed: int | None = None,
        head: str = "all",
        angle: float = 0.0,
        standardise: bool = False,
    ) -> None:
        _one_of("split", split, ("train", "test"))
        _one_of("labels", labels, LABELS)
        _one_of("head", head, HEADS)
        _at_least_one(samples=samples, episode_length=episode_length, classes_per_task=classes_per_task)
        whole = _prepared(data, data_sets.folder(), float(angle), standardise)
        classes = _group(whole, classes_per_task, split_index, class_order_seed, cumulative)
        part = _chosen(whole, split, samples).of_classes(classes)
        self.sweep = sweep or split == "test"
        if len(part) < num_envs:
            raise UserError(f"{len(part)} samples of '{data}' are too few for {num_envs} copies.")

        self.images, self._peak = part.images, np.float32(whole.peak)
        places = _relabelled(np.searchsorted(classes, part.labels), len(classes), labels, label_seed)
        self.labels = places if head == "shared" else classes[places]
        self.allowed = np.isin(np.arange(whole.classes), classes) if head == "masked" else None
        """(classes,) bool: which actions the task allows, where it masks some."""
        outputs = len(classes) if head == "shared" else whole.classes

        bound = (-np.inf, np.inf) if standardise else (0.0, 1.0)
        observations = spaces.Box(*bound, whole.shape, np.float32)
        super().__init__(num_envs, observations, spaces.Discrete(outputs), episode_length, truncates=False)
        self._copies = np.arange(num_envs)
        shares = (len(part) - 1 - self._copies) // num_envs + 1
        self.length = shares if self.sweep else np.full(num_envs, episode_length)
        self.max_steps = int(self.length.max())
        self._reward = np.float32(num_envs / len(part) if self.sweep else 1 / episode_length)
        self.order = np.arange(len(part))
        self.current = self._copies.copy()
        self.next = len(part)  # place in the order; its end: a new pass begins

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins a new pass over the data."""
        super().reset(seed=seed, options=options)
        if not self.sweep:
            self.next = len(self.order)
            self._move()
        return self.observe(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Takes (num_envs,) predicted labels; the true ones stand in infos["labels"] (num_envs,)."""
        labels = self.labels[self.current]
        observations, rewards, terminated, truncated, infos = super().step(actions)
        return observations, rewards, terminated, truncated, {**infos, "labels": labels}

    def begin(self, copies: np.ndarray) -> None:
        """Takes these copies back to their first sample in a sweep; in training the stream flows on."""
        if self.sweep:
            self.current[copies] = self._copies[copies]

    def advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pays the right answers and shows the next samples."""
        correct = actions == self.labels[self.current]
        self._move()
        return correct * self._reward, self.steps + 1 >= self.length

    def observe(self) -> np.ndarray:
        """Returns the present inputs, (num_envs, C, H, W) float32."""
        return self.images[self.current] / self._peak

    def draw(self, copy: int) -> np.ndarray:
        """Draws the present image, enlarged, in grey or in colour."""
        image = self.observe()[copy].transpose(1, 2, 0)
        low, high = image.min(), image.max()
        image = (image - low) / max(high - low, 1e-6) * 255
        image = np.broadcast_to(image, (*image.shape[:2], 3)).astype(np.uint8)
        scale = max(1, 128 // image.shape[0])
        return image.repeat(scale, axis=0).repeat(scale, axis=1)

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that later steps depend on."""
        return {**super().state_dict(), "next": self.next}

    def load_state_dict(self, state: dict[str, Any]) -> np.ndarray:
        """Goes on where `state_dict` was called; returns the observations there."""
        self.next = int(state["next"])
        return super().load_state_dict(state)

    def _move(self) -> None:
        """The next sample of every copy."""
        if self.sweep:
            self.current = np.minimum(self.current + self.num_envs, len(self.order) - 1)
            return
        batch = self.order[self.next : self.next + self.num_envs]
        missing = self.num_envs - len(batch)
        self.next += self.num_envs
        if missing:  # the pass is over within this batch
            self.order = self.np_random.permutation(len(self.order))
            batch, self.next = np.concatenate([batch, self.order[:missing]]), missing
        self.current = batch.copy()


@functools.lru_cache(maxsize=8)
def _prepared(name: str, folder: Path, angle: float, standardise: bool) -> DataSet:
    """A data set as its tasks show it; turned images are kept, since every evaluation asks for them again."""
    data = data_sets.standardised(name, folder) if standardise else data_sets.load(name)
    if angle % 360 == 0:
        return data
    parts = [Part(_turned(part.images, angle), part.labels) for part in (data.train, data.test)]
    return DataSet(data.name, data.classes, data.peak, *parts)


def _turned(images: np.ndarray, angle: float) -> np.ndarray:
    """(N, C, H, W) turned about their centre, by bilinear interpolation; what comes in from outside is the darkest."""
    import cv2

    height, width = images.shape[2:]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
    dark = images.min(axis=(0, 2, 3))
    turned = np.empty_like(images)
    for image, target in zip(images, turned, strict=True):
        for channel, plane in enumerate(image):
            target[channel] = cv2.warpAffine(plane, turn, (width, height), borderValue=float(dark[channel]))
    return turned


def _chosen(data: DataSet, split: str, samples: int | None) -> Part:
    part = data.part(split)
    if samples is None or split == "test":
        return part
    if samples > len(part):
        raise UserError(
            f"'samples' is {samples}, but '{data.name}' has only {len(part)} samples to learn from."
        )
    return part.first(samples)


def _group(
    data: DataSet, size: int | None, index: int, order_seed: int | None, cumulative: bool
) -> np.ndarray:
    """The classes of a task, in ascending order."""
    order = np.arange(data.classes)
    if order_seed is not None:
        order = np.random.default_rng([order_seed, 0xC1]).permutation(data.classes)
    if size is None:
        return np.arange(data.classes)
    if data.classes % size:
        raise UserError(
            f"'classes_per_task' is {size}, which does not divide the {data.classes} classes of '{data.name}'."
        )
    if not 0 <= index < data.classes // size:
        raise UserError(
            f"'split_index' is {index}, but {data.classes} classes in groups of {size} make "
            f"{data.classes // size} tasks."
        )
    return np.sort(order[0 if cumulative else index * size : (index + 1) * size])


def _relabelled(labels: np.ndarray, classes: int, kind: str, seed: int) -> np.ndarray:
    """(N,) labels from 0 to classes - 1 -> (N,) as the task has them, in the same range."""
    rng = np.random.default_rng([seed, 0x1A])
    if kind == "random":
        return rng.integers(classes, size=len(labels))
    return rng.permutation(classes)[labels] if kind == "shuffled" else labels


def _one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"'{option}' is '{value}'. {nearest(value, known)}")


def _at_least_one(**options: int | None) -> None:
    for option, value in options.items():
        if value is not None and value < 1:
            raise UserError(f"'{option}' is {value}; it must be at least 1.")


class StreamEnv(SingleEnv):
    """Plays one copy of a stream."""

    VECTOR = Stream
