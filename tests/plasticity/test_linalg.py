import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isorl.plasticity.linalg import (
    as_matrix,
    gram_residual,
    isometry_descent,
    newton_schulz_,
    orthogonalise,
    smaller_gram,
)


def with_spectrum(sigma, rows, columns, dtype=torch.double):
    """A random matrix with the given singular values."""
    U = torch.linalg.qr(torch.randn(rows, len(sigma), dtype=dtype))[0]
    V = torch.linalg.qr(torch.randn(columns, len(sigma), dtype=dtype))[0]
    return U @ torch.diag(torch.as_tensor(sigma, dtype=dtype)) @ V.T


@pytest.mark.parametrize("shape", [(3, 8), (8, 3), (4, 4)])
def test_the_smaller_gram(shape):
    W = torch.randn(shape)
    assert gram_residual(W, 2.0).shape == (min(shape), min(shape))
    sigma = torch.linalg.svdvals(W)
    torch.testing.assert_close(gram_residual(W, 2.0).square().sum(), (sigma**2 - 2).square().sum())


@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (129, 129), (128, 200), (2, 150, 160)])
def test_the_gram_by_blocks(shape):
    W = torch.randn(shape, dtype=torch.double)
    expected = W @ W.mT if shape[-2] <= shape[-1] else W.mT @ W
    G = smaller_gram(W)
    torch.testing.assert_close(G, expected)
    torch.testing.assert_close(G, G.mT)
    torch.testing.assert_close(smaller_gram(W.requires_grad_()), expected)


@given(st.lists(st.floats(0.05, 1.7), min_size=2, max_size=5), st.floats(1e-4, 0.1), st.booleans())
def test_each_singular_value_moves_on_its_own(sigma, a, tall):
    """Sigma <- sigma - 4 a sigma (sigma^2 - s) below the cap, and singular vectors stay."""
    torch.manual_seed(0)
    sigma = sorted(sigma, reverse=True)
    W = with_spectrum(sigma, 9, 6) if tall else with_spectrum(sigma, 6, 9)
    s = 1.3
    E = gram_residual(W, s)
    a = min(a, 1 / (8 * max(s, min(E.abs().sum(1).max(), E.norm()).item())))
    moved = torch.linalg.svdvals(W + isometry_descent(W, a, s))[: len(sigma)]
    x = torch.tensor(sigma, dtype=torch.double)
    expected = (x - 4 * a * x * (x**2 - s)).sort(descending=True).values
    torch.testing.assert_close(moved, expected, rtol=1e-6, atol=1e-8)


def test_newton_schulz_is_the_step_at_one_eighth():
    W = with_spectrum([1.2, 0.9, 0.7], 3, 5)
    bjorck = 1.5 * W - 0.5 * W @ W.T @ W
    torch.testing.assert_close(W + isometry_descent(W, 1 / 8), bjorck)


@pytest.mark.parametrize("gain", [1.0, math.sqrt(2)])
def test_newton_schulz_finds_the_polar_factor(gain):
    W = with_spectrum([1.3, 1.0, 0.8, 0.6], 4, 7) * gain
    U, _, Vh = torch.linalg.svd(W, full_matrices=False)
    torch.testing.assert_close(
        newton_schulz_(W.clone(), gain, iterations=8), gain * U @ Vh, atol=3e-4, rtol=0
    )


def test_newton_schulz_converges_from_far_away_and_six_iterations_from_near():
    for sigma, iterations in ([60.0, 1.0, 0.01], None), ([1.5, 1.0, 0.34], 6):
        W = newton_schulz_(with_spectrum(sigma, 3, 5).float(), 1.0, iterations)
        assert (torch.linalg.svdvals(W) - 1).abs().max() < 1e-3


@pytest.mark.parametrize("shape", [(3, 8), (8, 3), (4, 4), (4, 2, 3, 3)])
def test_orthogonalise_gives_the_gain_whatever_the_weight(shape):
    W = torch.randn(shape, dtype=torch.double, requires_grad=True)
    Q = orthogonalise(W, 1.5)
    sigma = torch.linalg.svdvals(as_matrix(Q))
    torch.testing.assert_close(sigma, torch.full_like(sigma, 1.5))
    assert torch.autograd.gradcheck(orthogonalise, (W,))


def test_orthogonalise_spans_the_same_rows_and_ignores_scale():
    W = torch.randn(3, 8, dtype=torch.double)
    Q = orthogonalise(W)
    torch.testing.assert_close(Q, orthogonalise(7 * W))
    torch.testing.assert_close(W @ Q.T @ Q, W)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(64, 64), (32, 96), (96, 32)])
@pytest.mark.parametrize("exponent", [1, 3, 5, 7])
def test_orthogonalise_is_exact_however_ill_conditioned_the_weight(exponent, shape, dtype):
    sigma = torch.logspace(0, -exponent, min(shape), dtype=torch.double)
    Q = orthogonalise(with_spectrum(sigma, *shape).to(dtype))
    found = torch.linalg.svdvals(Q.double())
    assert (found - 1).abs().max() < 20 * torch.finfo(dtype).eps


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (30, 30)])
def test_orthogonalise_in_single_precision_has_the_gradient_of_the_definition(shape):
    """L^-1 W by a Cholesky factor in double precision, which at a condition number of 1e3 is exact."""
    W = with_spectrum(torch.logspace(0, -3, min(shape), dtype=torch.double), *shape)
    G = torch.randn(shape, dtype=torch.double)
    ours = W.float().requires_grad_()
    theirs = ours.detach().double().requires_grad_()
    (orthogonalise(ours) * G.float()).sum().backward()
    V = theirs if shape[0] <= shape[1] else theirs.mT
    Q = torch.linalg.solve_triangular(torch.linalg.cholesky(V @ V.mT), V, upper=False)
    ((Q if shape[0] <= shape[1] else Q.mT) * G).sum().backward()
    assert (ours.grad.double() - theirs.grad).norm() < 1e-4 * theirs.grad.norm()


def test_orthogonalise_of_what_is_singular_and_of_what_is_not_a_number():
    assert torch.equal(orthogonalise(torch.zeros(2, 3)), torch.eye(2, 3))
    assert not torch.isfinite(orthogonalise(torch.full((2, 3), torch.nan))).any()


def test_vectors_are_refused():
    with pytest.raises(ValueError, match="two dimensions or more, got shape"):
        as_matrix(torch.zeros(3))


def test_rows_of_unit_length_are_not_an_isometry():
    """What docs/plasticity.md says of row-normalised layers."""
    equal = torch.ones(16, 16) / 4
    assert torch.linalg.svdvals(equal)[0].item() == pytest.approx(4)
    assert torch.linalg.svdvals(equal)[1].item() == pytest.approx(0, abs=1e-5)
    torch.manual_seed(0)
    random = torch.randn(512, 512)
    sigma = torch.linalg.svdvals(random / random.norm(dim=1, keepdim=True))
    assert 1.9 < sigma[0] < 2.1
    assert sigma[-1] < 0.01
