import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isorl.plasticity.diagnostics import spectra


def with_spectrum(sigma, rows, columns):
    U = torch.linalg.qr(torch.randn(rows, len(sigma), dtype=torch.double))[0]
    V = torch.linalg.qr(torch.randn(columns, len(sigma), dtype=torch.double))[0]
    return U @ torch.diag(torch.tensor(sigma, dtype=torch.double)) @ V.T


@pytest.mark.parametrize("shape", [(6, 11), (11, 6), (5, 5), (3, 4, 9)])
def test_singular_values(shape, device):
    A = torch.randn(shape, device=device)
    expected = torch.linalg.svdvals(A.double()).flip(-1)
    torch.testing.assert_close(spectra.singular_values(A), expected, rtol=1e-6, atol=1e-6)


def test_known_spectrum_down_to_1e_6():
    sigma = [1.0, 1e-2, 1e-4, 1e-6]
    found = spectra.singular_values(with_spectrum(sigma, 9, 20)).flip(0)[:4]
    torch.testing.assert_close(found, torch.tensor(sigma, dtype=torch.double), rtol=1e-3, atol=0)


@given(st.integers(2, 12), st.integers(2, 12), st.sampled_from(["relu", "tanh", "ones", "none active"]))
def test_masked_singular_values(rows, columns, kind):
    torch.manual_seed(0)
    W, u = torch.randn(rows, columns), torch.randn(4, rows)
    slopes = {"relu": (u > 0).float(), "tanh": 1 - u.tanh() ** 2, "ones": u * 0 + 1, "none active": u * 0}[
        kind
    ]
    expected = torch.linalg.svdvals((slopes[:, :, None] * W).double()).flip(-1)
    torch.testing.assert_close(spectra.masked_singular_values(W, slopes), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.gpu
def test_masked_singular_values_on_the_gpu():
    W, slopes = torch.randn(8, 20), (torch.randn(4, 8) > 0).float()
    found = spectra.masked_singular_values(W.cuda(), slopes.cuda())
    torch.testing.assert_close(found.cpu(), spectra.masked_singular_values(W, slopes), rtol=1e-5, atol=1e-6)


def test_ranks_of_one_matrix_have_their_own_names():
    """The 256 x 64 ReLU features of decaying spectrum on which peers' five "ranks" disagree."""
    sigma = torch.tensor([4.0, 2.0, 1.0, 1.0, 0.02], dtype=torch.double)
    assert spectra.stable_rank(sigma) == pytest.approx((16 + 4 + 1 + 1 + 0.0004) / 16)
    p = sigma / sigma.sum()
    assert spectra.effective_rank(sigma) == pytest.approx(math.exp(-(p * p.log()).sum()))
    assert spectra.srank(sigma) == 4  # 8 of 8.02 is 99.75 %; three hold 87 %
    assert spectra.srank(sigma, delta=0.2) == 3
    assert spectra.condition(sigma) == pytest.approx(200)


@given(st.integers(1, 30), st.floats(1e-3, 1e3))
def test_an_isometry_has_full_rank_by_every_name(n, scale):
    sigma = torch.full((n,), scale, dtype=torch.double)
    assert spectra.stable_rank(sigma) == pytest.approx(n)
    assert spectra.effective_rank(sigma) == pytest.approx(n)
    assert spectra.srank(sigma) == math.ceil(0.99 * n - 1e-9)
    assert spectra.condition(sigma) == pytest.approx(1)


def test_a_zero_matrix_has_rank_zero_and_a_broken_one_none():
    for rank in (spectra.stable_rank, spectra.effective_rank, spectra.srank):
        assert rank(torch.zeros(4)) == 0
        assert torch.isnan(rank(torch.tensor([1.0, math.nan])))
    assert torch.isnan(spectra.singular_values(torch.tensor([[1.0, math.nan], [0.0, 1.0]]))).all()


def test_condition_is_bounded_by_what_is_resolved():
    assert spectra.condition(torch.tensor([0.0, 1.0])) == pytest.approx(1 / (2 * 2**-23), rel=1e-5)


def test_of_many_matrices_only_the_broken_one_has_no_eigenvalues():
    G = torch.diag_embed(torch.tensor([[0.0, 0.5, 2.0], [1.0, torch.inf, 1.0], [-1e-9, 0.25, 0.5]]))
    found = spectra.eigenvalues(G)
    assert found[1].isnan().all()
    torch.testing.assert_close(found[[0, 2]], torch.tensor([[0.0, 0.5, 2.0], [0.0, 0.25, 0.5]]).double())
