"""Pages that are written from the code are those that the code writes now; `make docs` writes them anew."""

import importlib
import re
from pathlib import Path

import pytest

from docs import draw_sequences
from isorl.experiments import metrics_page

DOCS = Path(__file__).parents[2] / "docs"


def test_every_metric_is_explained():
    assert (DOCS / "metrics.md").read_text() == metrics_page.page(), "run: make docs"


def test_every_sequence_is_explained():
    assert (DOCS / "sequences.md").read_text() == draw_sequences.page(), "run: make docs"


MODULES = ("isorl", "isorl.plasticity", "isorl.plasticity.diagnostics", "isorl.plasticity.networks",
           "isorl.plasticity.methods", "isorl.agents", "isorl.envs", "isorl.configs")  # fmt: skip


@pytest.mark.parametrize("module", MODULES)
def test_the_api_has_every_public_name(module):
    pages = "".join(file.read_text() for file in (DOCS / "api").glob("*.md"))
    shown = {name.rpartition(".")[2] for name in re.findall(r"^::: (\S+)", pages, re.MULTILINE)}
    mentioned = set(re.findall(r"`([A-Z_]+)`", pages)) | {"Agent"}  # registries; the union of the agents
    assert set(importlib.import_module(module).__all__) <= shown | mentioned
