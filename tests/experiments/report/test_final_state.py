"""The table of the networks' final state, on made-up runs whose numbers are known."""

import json

import numpy as np
import pytest

from isorl.experiments.report import final_state
from isorl.experiments.report.charts import learning_curve
from isorl.experiments.report.find_runs import find_runs
from isorl.experiments.report.study import Study
from tests.experiments.report.synthetic import write_grid

ARMS = {"keeps": 0.0, "loses": 0.05, "loses more": 0.1, "loses most": 0.15}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Four arms, one sequence, three seeds; the spectrum of one seed of 'loses' is known."""
    grid = write_grid(tmp_path_factory.mktemp("grid"), ARMS, sequences=1, seeds=3, visits=6)
    found_runs = find_runs([grid])
    runs, found = found_runs.runs, found_runs.grid
    [run] = [run for run in runs if run.arm == "loses" and run.seed == 0]
    key = "plasticity/layer_jacobian_spectrum/actor"
    spectra = {4: [9.0] * 20, 5: [0.05] * 5 + [1.0] * 15}
    rows = [{"key": key, "value": v, "agent_step": 1000, "task": "", "visit": k} for k, v in spectra.items()]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Study(runs, found.baseline)


def column(table, name):
    return [row[table.head.index(name)].text for row in table.rows]


def test_rows_are_arms_and_their_correlation(study):
    """Dormant units are one minus the return: the more, the worse."""
    table = final_state.table(study, "sequence 0")
    assert column(table, "") == [*ARMS, "rank correlation"]
    dormant = [float(text) for text in column(table, "dormant units")]
    assert dormant == pytest.approx([0.0, 0.25, 0.5, 0.75, -1.0], abs=0.03)


def test_spectrum_is_the_last_visits(study):
    table = final_state.table(study, "sequence 0")
    sigma = np.array([0.05] * 5 + [1.0] * 15)
    expected = {
        "σ, 5 % quantile": 0.05,
        "share of σ < 0.1": 0.25,
        "σ, std / mean": sigma.std() / sigma.mean(),
    }
    for name, value in expected.items():
        missing, found, *_, correlation = column(table, name)
        assert float(found) == pytest.approx(value, abs=0.005)
        assert missing == correlation == "\N{EN DASH}"  # one arm has no rank


def test_nothing_measured_is_no_table(study):
    bare = Study([run for run in study.runs if run.kind == "random"])
    assert final_state.table(bare, "sequence 0").rows == []


def test_runs_in_which_no_episode_ended_have_no_curve(study):
    runs = study.of("sequence 0", "keeps")
    assert learning_curve(study, "sequence 0", "keeps") is not None
    for run in runs:
        run.curve = np.full_like(run.curve, np.nan)
    assert learning_curve(study, "sequence 0", "keeps") is None
