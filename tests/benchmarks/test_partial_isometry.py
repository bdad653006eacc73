"""The page that reads methods as partial isometry, on results made up by hand; and one real, short run."""

import pytest

from benchmarks import partial_isometry as page
from benchmarks.streams import play
from isorl.plasticity.methods import METHODS


def state(largest=1.0, lost=0.0, spread=0.2, **values):
    """Of a network whose singular values lie between 0.5 and `largest`."""
    quantiles = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, largest]
    return {
        "quantiles": quantiles,
        "lost": lost,
        "spread": spread,
        **dict.fromkeys(page.VALUES, 0.1),
        **values,
    }


def entry(last, after, tried=()):
    run = {"first": 0.5, "last": last, "before": state(), "after": after, "seconds": 1.0}
    return {"tried": dict(tried), "runs": {str(seed): run for seed in range(3)}}


@pytest.mark.parametrize(
    ("after", "holds"),
    [
        (state(), "top, bottom, even"),
        (state(largest=1.6), "bottom, even"),
        (state(lost=0.06), "top, even"),
        (state(spread=0.26), "top, bottom"),
        (state(9.0, 0.9, 9.0), "none"),
    ],
)
def test_which_part_is_held(after, holds):
    assert page.Row("x", entry(0.5, after)).parts() == holds


def test_the_page(tmp_path, monkeypatch):
    """The wider the spread, the worse: the best method is on top, and the rank correlation is -1."""
    by_arm = {
        "adam": entry(0.1, state(spread=0.9)),
        "gram": entry(0.5, state(spread=0.3), tried={"method.gram.strength=0.1": 0.4}),
        "adamo": entry(0.7, state(spread=0.2)),
    }
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(page, "PICTURE", tmp_path / "page.png")
    page.write_page({"random": by_arm, "permuted": by_arm, "machine": "here"})
    rows = [line.split(" | ") for line in (tmp_path / "page.md").read_text().splitlines() if line[:1] == "|"]
    assert [row[0] for row in rows[2:5]] == ["| adamo", "| gram", "| adam"]
    assert ["| spread", "-1.00", "-1.00 |"] in rows
    assert any("method.gram.strength=0.1" in cell for row in rows for cell in row)
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_every_method_without_labels_has_an_arm_and_a_setting():
    assert {name for name in METHODS if not METHODS[name].needs_labels} < set(page.ARMS)
    assert set(page.KNOBS) <= set(page.ARMS)
    assert len(page.candidates("redo")) == 4
    assert page.candidates("adam") == [page.PLAIN]


def test_a_short_run_is_measured_before_and_after():
    words = ("sequence=digits_permuted-smoke", *page.candidates("gram")[0], "seed=3")
    kept = page.kept(play(words, page.METRICS, at_the_end=True), edge=1)
    assert kept["before"]["dormant_units"] <= kept["after"]["dormant_units"] + 0.2
    assert kept["before"] != kept["after"]
    assert kept["before"]["quantiles"] == sorted(kept["before"]["quantiles"])
    assert 0.3 < kept["last"] < 1
