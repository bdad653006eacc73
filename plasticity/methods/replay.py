"""Experience replay (Chaudhry et al. 2019, On Tiny Episodic Memories in Continual Learning, 1902.10486)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from isorl.plasticity.methods.base import Method, check
from isorl.plasticity.methods.learner import Batch, Learner
from isorl.plasticity.methods.registry import METHODS
from isorl.plasticity.networks import cross_entropy


@METHODS.register("replay")
@dataclass
class Replay(Method):
    """loss + strength * mean of -log softmax(f(x))_y over a batch (x, y) drawn from a memory of earlier samples.

    The memory is a uniform sample of the whole stream: the n-th sample enters with probability size / n, in a random
    place (reservoir sampling, Vitter 1985). A batch from it is as large as the stream's; samples keep their own
    task's classes where heads are masked. For classifiers alone: PPO is on-policy, and DQN has its replay.

    Attributes:
        strength: at least 0. 1: the paper's update on both batches together, apart from a factor 2 that Adam divides
            out.
        size: samples, at least 1. 500, ours; the paper's memories hold 1 to 15 samples per class and task.
    """

    strength: float = 1.0
    size: int = 500

    needs_labels: ClassVar[bool] = True
    saved: ClassVar[tuple[str, ...]] = ("_inputs", "_labels", "_allowed", "_seen")

    def __post_init__(self) -> None:
        check(
            self,
            strength=self.strength >= 0 or "at least 0: a negative one would unlearn what is replayed",
            size=self.size >= 1 or "at least 1",
        )

    def start(self, learner: Learner) -> None:
        """Begins with an empty memory."""
        self._network, self._generator = learner.networks["classifier"], learner.generator
        self._inputs: Tensor | None = None  # (size, ...)
        self._labels: Tensor | None = None  # (size,)
        self._allowed: Tensor | None = None  # (size, C), where heads are masked
        self._seen = 0  # samples of the stream so far

    def loss(self, batch: Batch) -> Tensor | None:
        """Returns the term, once there is a memory."""
        if self._inputs is None or self._labels is None:
            return None
        filled = min(self._seen, self.size)
        drawn = torch.randint(filled, (len(batch.inputs),), generator=self._generator).to(self._labels.device)
        allowed = None if self._allowed is None else self._allowed[drawn]
        return self.strength * cross_entropy(self._network(self._inputs[drawn]), self._labels[drawn], allowed)

    def after_update(self, batch: Batch) -> None:
        """Offers the batch to the memory."""
        assert batch.labels is not None
        places = self._places(len(batch.labels))
        kept = {
            place: row for row, place in enumerate(places) if place < self.size
        }  # the later of two in a place
        self._seen += len(places)
        if not kept:
            return
        rows = torch.tensor(list(kept.values()), device=batch.labels.device)
        to = torch.tensor(list(kept), device=batch.labels.device)
        self._inputs = _written(self._inputs, to, batch.inputs.detach()[rows], self.size)
        self._labels = _written(self._labels, to, batch.labels[rows], self.size)
        if batch.allowed is not None:
            allowed = batch.allowed.expand(len(rows), -1)
            self._allowed = _written(self._allowed, to, allowed, self.size)

    def _places(self, count: int) -> list[int]:
        """Where the next `count` samples would go: in order while there is room, then anywhere among all seen."""
        drawn = torch.rand(count, generator=self._generator, dtype=torch.float64).tolist()
        seen = range(self._seen, self._seen + count)
        return [n if n < self.size else int(u * (n + 1)) for n, u in zip(seen, drawn, strict=True)]


def _written(memory: Tensor | None, to: Tensor, rows: Tensor, size: int) -> Tensor:
    """`memory` (size, ...), made where there is none yet, with `rows` in the places `to`."""
    if memory is None:
        memory = rows.new_zeros((size, *rows.shape[1:]))
    memory[to] = rows
    return memory
