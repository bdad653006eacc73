"""One torch thread, fixed seeds, and what several folders need."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

pytest_plugins = ["tests.streams"]


@pytest.fixture(autouse=True)
def _one_thread_and_seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True, scope="session")
def _temporary_files_go_with_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """stable-baselines3 makes a folder for the log of every agent that is given none."""
    before, tempfile.tempdir = tempfile.tempdir, str(tmp_path_factory.getbasetemp())
    yield
    tempfile.tempdir = before


@contextmanager
def waiting_for_the_device_raises() -> Iterator[None]:
    """Inside, whatever makes the processor wait for the GPU is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
