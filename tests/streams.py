"""A tiny data set whose images say which sample they are, and runs on streams."""

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from isorl.configs.command_line import FOLDER, register_resolvers, resolve
from isorl.envs import data
from isorl.envs.data import DataSet, Part
from isorl.experiments.run.experiment import build


def toy(name="toy", where=None, count=12, held_out=5, classes=4):
    """Sample i of the training part is an image full of i, held-out ones of 100 + i; labels go round."""

    def part(first, size):
        images = np.arange(first, first + size, dtype=np.uint8).repeat(4).reshape(size, 1, 2, 2)
        return Part(images, np.arange(size) % classes)

    return DataSet(name, classes, 1, part(0, count), part(100, held_out))


@pytest.fixture
def _toy(monkeypatch):
    """isorl/Digits-v0 shows `toy` instead."""
    monkeypatch.setitem(data.LOADERS, "toy", toy)
    yield
    data._load.cache_clear()


@pytest.fixture
def configured():
    """configured("sequence=...", ...) -> the configuration of a run of the classifier."""

    def make(*overrides):
        register_resolvers()
        GlobalHydra.instance().clear()
        words = ["agent=classifier", "device=cpu", "run_dir=''", "network=relu", "optimizer=adam", *overrides]
        with initialize_config_dir(version_base=None, config_dir=str(FOLDER)):
            return resolve(compose("config", overrides=words))

    return make


@pytest.fixture
def parts(configured):
    """parts("sequence=...", ...) -> the checked parts of a run of the classifier."""
    return lambda *overrides: build(configured(*overrides))
