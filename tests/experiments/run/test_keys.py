from pathlib import Path

from isorl.experiments.run import keys
from isorl.plasticity.diagnostics import METRICS

PAGE = Path(__file__).parents[3] / "docs" / "logged_keys.md"


def test_page_is_up_to_date():
    assert PAGE.read_text() == keys.page(), "run: make docs"


def test_keys_are_recognised():
    assert keys.explained("return/goal-3")
    assert keys.explained("train/loss")
    assert not keys.explained("train/losss")
    assert not keys.explained("plasticity/dormant/actor")
    assert all(keys.explained(f"plasticity/{name}/actor/linear1") for name in METRICS)
