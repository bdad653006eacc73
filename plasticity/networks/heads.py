"""What is read off an output head: the classes that a task allows, and the loss of a classifier."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def masked(logits: Tensor, allowed: Tensor | None) -> Tensor:
    """Returns (B, C) logits, minus infinity where `allowed`, (C,) or (B, C), is false."""
    return logits if allowed is None else logits.masked_fill(~allowed, -torch.inf)


def cross_entropy(logits: Tensor, labels: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Returns the mean of -log softmax(logits)_y over (B, C) logits and (B,) labels, among `allowed` classes."""
    return F.cross_entropy(masked(logits, allowed), labels)
