"""The linear algebra of isometry: Gram matrices, the isometry step and orthogonalisation.

Shapes: W (O, I) a weight matrix, n = min(O, I); E (n, n) its Gram residual.

For a matrix with O != I the Gram matrices W W^T and W^T W give the same gradient 4 (W W^T - s I) W =
4 W (W^T W - s I), so only the smaller one is ever formed.
"""

from __future__ import annotations

import torch
from torch import Tensor

_WIDE = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


def as_matrix(weight: Tensor) -> Tensor:
    """Returns a weight (O, ...) as the matrix (O, I) whose isometry is meant, at least in single precision."""
    if weight.ndim < 2:
        raise ValueError(f"a weight matrix needs two dimensions or more, got shape {tuple(weight.shape)}")
    matrix = weight.flatten(1)
    return matrix.to(_WIDE.get(matrix.dtype, matrix.dtype))


def at_least_single(x: Tensor) -> Tensor:
    """Returns `x` in its precision, or in single precision where that is less."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def gram(V: Tensor) -> Tensor:
    """Returns V V^T (..., n, n) of V (..., n, m), which is at least in single precision.

    For a matrix on a CPU it is numpy's product: it sees that both factors are one and computes half, twice as
    fast as torch, which has no symmetric product.
    """
    if V.device.type != "cpu" or V.ndim > 2 or (V.requires_grad and torch.is_grad_enabled()):
        return V @ V.mT
    v = V.detach().numpy()
    return torch.from_numpy(v @ v.T)


def smaller_gram(W: Tensor) -> Tensor:
    """Returns W W^T, or W^T W where W (..., O, I) is tall: (..., n, n) with n = min(O, I)."""
    return gram(W if W.shape[-2] <= W.shape[-1] else W.mT)


def gram_residual(W: Tensor, target: float | Tensor = 1.0) -> Tensor:
    """Returns E = W W^T - s I, or W^T W - s I where W (..., O, I) is tall: (..., n, n) with n = min(O, I)."""
    E = smaller_gram(W)
    E.diagonal(dim1=-2, dim2=-1).sub_(target)
    return E


def gram_gradient(W: Tensor, E: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """Returns scale * grad R of R = ||E||_F^2: 4 E W, or 4 W E where E is the residual of W^T W; W (..., O, I)."""
    E = E * (4 * scale)
    return E @ W if E.shape[-1] == W.shape[-2] else W @ E


def isometry_descent(W: Tensor, strength: float | Tensor, target: float = 1.0) -> Tensor:
    """Returns the step -a grad R(W), R = ||E||_F^2, which pulls singular values of W (..., O, I) to sqrt(s).

    Each singular value moves as sigma <- sigma - 4 a sigma (sigma^2 - s), which overshoots once
    4 a (sigma_max^2 - s) > 1. So a is capped at 1 / (8 max(s, n)), where n >= max |sigma^2 - s| is the
    smaller of the infinity and the Frobenius norm of E. At a = 1/8, s = 1 this is one Newton-Schulz step
    (Bjorck & Bowie 1971): soft and projected orthogonality are one formula. Nothing here waits for a device.
    """
    if W.numel() == 0:
        return torch.zeros_like(W)
    return _descent(W, gram_residual(W, target), strength, target)


def _descent(W: Tensor, E: Tensor, strength: float | Tensor, target: float) -> Tensor:
    n = torch.minimum(E.abs().sum(-1).amax(-1), torch.linalg.vector_norm(E, dim=(-2, -1)))
    cap = 1 / (8 * n.clamp(min=target))[..., None, None]
    a = torch.minimum(cap, strength.to(cap)) if isinstance(strength, Tensor) else cap.clamp(max=strength)
    return gram_gradient(W, E, -a)


@torch.no_grad()
def newton_schulz_(weight: Tensor, gain: float = 1.0, iterations: int | None = None) -> Tensor:
    """Moves `weight` (O, ...) in place towards the nearest matrix whose singular values all equal `gain`.

    With sigma = gain u each iteration maps u to (3 u - u^3) / 2, so a distance d from one becomes 1.5 d^2;
    above u = sqrt 2 the cap of `isometry_descent` shortens it.

    Args:
        weight: with two dimensions or more.
        gain: the singular value aimed at.
        iterations: None stops on a CPU once all |u^2 - 1| <= 5e-4, after 100 at most (a zero singular value
            stays zero). A GPU would have to be waited for and gets 6, enough for 1/3 <= u <= 3/2.
    """
    W, s = as_matrix(weight), gain**2
    on_cpu = W.device.type == "cpu"
    for _ in range(iterations or (100 if on_cpu else 6)):
        E = gram_residual(W, s)
        if on_cpu and not torch.linalg.vector_norm(E) > 5e-4 * s:  # NaN stops, too
            break
        W = W + _descent(W, E, strength=1 / (8 * s), target=s)
    return weight.copy_(W.reshape(weight.shape))


def orthogonalise(weight: Tensor, gain: float = 1.0) -> Tensor:
    """Returns gain L^-1 W, where L L^T = W W^T, in the shape of `weight`; differentiable.

    Its singular values are `gain` to rounding for any W. The factor L is read off a Householder QR
    decomposition of W^T: a Cholesky factor of W W^T is off by the square of W's condition number, and a
    weight that nothing holds in place reaches 1e4 in training. Its gradient needs a W of full rank.
    """
    W = as_matrix(weight)
    V = W if W.shape[0] <= W.shape[1] else W.mT
    Q, R = torch.linalg.qr(V.mT)  # V = R^T Q^T, and L = R^T has a positive diagonal
    Q = Q.mT * torch.where(R.diagonal() < 0, -gain, gain)[:, None]
    Q = Q if W.shape[0] <= W.shape[1] else Q.mT
    return Q.reshape(weight.shape).to(weight.dtype)
