"""One torch thread, fixed seeds, and what several folders need."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread_and_seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)


@contextmanager
def waiting_for_the_device_raises() -> Iterator[None]:
    """Inside, whatever makes the processor wait for the GPU is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
