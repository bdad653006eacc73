"""The notebook of the first hour runs as it stands, shows what it says, and is stored without outputs."""

from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples" / "first_hour.ipynb"
CHECKED = """
assert adam[-1]["accuracy"] < adam[0]["accuracy"] < adamo[-1]["accuracy"]
assert adamo[-1]["dormant_units"] < 0.5 * adam[-1]["dormant_units"]
assert adamo[-1]["ntk_condition"] < 0.1 * adam[-1]["ntk_condition"]
assert sorted(tables.runs["arm"]) == ["network=aei", "network=relu"]
assert tables.runs["agent_steps"] == [12288, 12288] and len(tables.visits["visit"]) == 12
for key in keys:
    assert all(len(list(curve(arm, f"plasticity/{key}/actor"))[0]) > 10 for arm in tables.runs["arm"])
assert run.agent_step == 12288
"""


@pytest.mark.filterwarnings("default")  # of Jupyter's own parts
@pytest.mark.slow  # `make site` executes it, too
def test_notebook_runs_and_shows_what_it_says(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    notebook.cells.append(nbformat.v4.new_code_cell(CHECKED))
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
