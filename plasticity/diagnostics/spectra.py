"""Spectra through the smaller Gram matrix in double precision, and the ranks and spreads read from them.

Shapes: W (O, I), n = min(O, I), S samples. A Gram matrix squares singular values, so in double precision it
resolves those above 1e-8 of the largest, at a tenth of the cost of svdvals.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from isorl.plasticity.linalg import smaller_gram

MOST_ROWS = 1e4
"""Eigenvalues that a matrix with a condition number has at most."""


def eigenvalues(G: Tensor) -> Tensor:
    """Returns those of a symmetric positive G (..., n, n), ascending; NaN throughout where G is not finite."""
    G = G.double()
    finite = torch.isfinite(G.sum((-2, -1)))
    if G.device.type == "cpu" and finite.all():
        return torch.linalg.eigvalsh(G).clamp_(min=0)
    values = torch.linalg.eigvalsh(torch.where(finite[..., None, None], G, 0.0)).clamp(min=0)
    return torch.where(finite[..., None], values, torch.nan)


def singular_values(W: Tensor) -> Tensor:
    """Returns the n = min(O, I) singular values of W (..., O, I), ascending, in double precision."""
    return eigenvalues(smaller_gram(W.double())).sqrt()


def masked_singular_values(W: Tensor, slopes: Tensor) -> Tensor:
    """Returns the singular values (S, n), ascending, of diag(d) W for each row d (S, O) of `slopes`.

    One Gram matrix W W^T serves all samples: scaling its rows and columns by d gives that of diag(d) W, and
    for ReLU, whose d is 0 or 1, only the submatrix of active units is left.
    """
    W, d = W.double(), slopes.double()
    if W.shape[0] > W.shape[1]:
        return singular_values(d[:, :, None] * W)
    G = smaller_gram(W)
    if G.device.type != "cpu" or not torch.isfinite(G.sum() + d.sum()):
        return eigenvalues(
            d[:, :, None] * G * d[:, None, :]
        ).sqrt()  # ragged submatrices would wait for a device
    return torch.from_numpy(np.stack([_of_active(G.numpy(), row) for row in d.numpy()]))


def _of_active(G: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Singular values (n,) of diag(d) W; in numpy, whose small operations take a third of the time of torch's."""
    (active,) = d.nonzero()
    d = d[active]
    values = np.zeros(len(G))
    values[len(G) - len(d) :] = np.linalg.eigvalsh(d[:, None] * G[active[:, None], active] * d)
    return np.sqrt(np.maximum(values, 0))


def stable_rank(sigma: Tensor) -> Tensor:
    """Returns sum sigma^2 / max sigma^2 = ||A||_F^2 / ||A||_2^2; 0 for a zero matrix."""
    return _zero_where_empty(sigma.square().sum() / sigma.max().square(), sigma)


def effective_rank(sigma: Tensor) -> Tensor:
    """Returns exp H(p), p = sigma / sum sigma (Roy & Vetterli 2007); 0 for a zero matrix."""
    p = sigma / sigma.sum()
    return _zero_where_empty(torch.special.entr(p).sum().exp(), sigma)


def srank(sigma: Tensor, delta: float = 0.01) -> Tensor:
    """Returns the least k whose largest k values hold 1 - delta of the sum (Kumar et al. 2021, arXiv 2010.14498)."""
    sigma = sigma.sort(descending=True).values
    share = sigma.cumsum(0) / sigma.sum()
    k = 1 + (share < 1 - delta).sum() + 0 * share[-1]  # the last term keeps a NaN
    return _zero_where_empty(k, sigma)


def condition(values: Tensor) -> Tensor:
    """Returns the largest over the smallest of (..., n) eigen- or singular values, as single precision resolves it.

    Below n eps max(values), eps = 1.2e-7, a value is rounding; the result is then a lower bound.
    """
    largest = values.amax(-1)
    floor = values.shape[-1] * torch.finfo(torch.float32).eps * largest
    return largest / torch.maximum(values.amin(-1), floor)


def is_at_cap(condition: float) -> bool:
    """Returns whether a condition number is what `condition` gives where it cannot see the smallest eigenvalue.

    It is 1 / (n eps) then for a whole n; another number comes that near to one once in 1e7.
    """
    n = 1 / (condition * torch.finfo(torch.float32).eps) if condition > 0 else 0.0
    return 0.5 < n < MOST_ROWS and abs(n - round(n)) < 1e-8


def _zero_where_empty(rank: Tensor, sigma: Tensor) -> Tensor:
    return torch.where(sigma.sum() == 0, 0.0, rank)
