"""The random state that a run draws from: the process's, or its own where several runs share a process.

stable-baselines3 seeds the process's generators of torch and numpy and draws actions and minibatches from them. Runs
that take turns in one process each go on with a copy of these generators as their own set-up left them, and so draw
what they would draw alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


class RngState:
    """The process's own generators.

    Attributes:
        torch: the generator to hand to torch's functions; None is the process's of whatever device.
        numpy: the process's, with its past and future.
    """

    def __init__(self) -> None:
        self.torch: torch.Generator | None = None
        self.numpy = np.random.RandomState(np.random.get_bit_generator())  # type: ignore[attr-defined]

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Makes whoever draws from the process's generators inside draw from these."""
        yield


class OwnRngState(RngState):
    """Copies of the process's generators (torch's on the CPU) as they are when this is made."""

    def __init__(self) -> None:
        self.torch = torch.Generator()
        self.torch.set_state(torch.get_rng_state())
        self.numpy = np.random.RandomState()
        self.numpy.set_state(np.random.get_state())

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Makes whoever draws from the process's generators inside draw from these."""
        assert self.torch is not None
        before = torch.get_rng_state(), np.random.get_state()
        torch.set_rng_state(self.torch.get_state())
        np.random.set_state(self.numpy.get_state())
        try:
            yield
        finally:
            self.torch.set_state(torch.get_rng_state())
            self.numpy.set_state(np.random.get_state())
            torch.set_rng_state(before[0])
            np.random.set_state(before[1])
