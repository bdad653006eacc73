"""One torch thread, fixed seeds, and an environment of known rewards."""

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread_and_seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)
