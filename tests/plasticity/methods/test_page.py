from pathlib import Path

from isorl.plasticity.method_page import page
from isorl.plasticity.methods import METHODS


def test_the_page_of_methods_is_what_the_code_says():
    assert (Path(__file__).parents[3] / "docs" / "methods.md").read_text() == page()


def test_it_names_every_method_and_explains_every_option():
    written = page()
    assert all(f"\n## {name}\n" in written for name in METHODS)
