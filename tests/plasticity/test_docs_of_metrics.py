from pathlib import Path

from isorl.plasticity.diagnostics import describe

PAGE = Path(__file__).parents[2] / "docs" / "plasticity.md"


def test_the_page_holds_the_metrics_as_registered():
    """Paste the output of `python -c "from isorl.plasticity.diagnostics import describe; print(describe())"`."""
    assert describe() in PAGE.read_text()
