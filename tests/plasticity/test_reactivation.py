"""The claims of docs/reactivation.md on one seed."""

import pytest

from benchmarks import reactivation
from benchmarks.reactivation import KILLS, REMEDIES, share_revived


@pytest.fixture(autouse=True)
def _one_seed(monkeypatch):
    monkeypatch.setattr(reactivation, "SEEDS", 1)


CASES = [
    ("small rows against the mean input", "isometry, s = 1", 0.9, 1),
    ("rows against the mean input", "isometry, s = 2", 0.9, 1),
    ("bias, in an orthogonal layer", "isometry, s = 1", 0, 0),
    ("exactly zero rows", "s = 2, bias decay", 0, 0),
    ("rows against the mean input", "Jacobian penalty", 0, 0),
]


@pytest.mark.parametrize(("cause", "remedy", "least", "most"), CASES, ids=str)
def test_what_revives_what(cause, remedy, least, most):
    assert least <= share_revived(KILLS[cause], REMEDIES[remedy]) <= most
