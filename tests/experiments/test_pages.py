"""Pages that are written from the code are those that the code writes now; `make docs` writes them anew."""

from pathlib import Path

from isorl.experiments import metrics_page

DOCS = Path(__file__).parents[2] / "docs"


def test_every_metric_is_explained():
    assert (DOCS / "metrics.md").read_text() == metrics_page.page(), "run: make docs"
