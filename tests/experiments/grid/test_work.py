"""One job: from whatever its folder shows to the end, and never an exception."""

import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from isorl.configs.command_line import composed
from isorl.configs.errors import Interrupted
from isorl.experiments.grid import work as work_module
from isorl.experiments.grid.cell import beside
from isorl.experiments.grid.expand import Composer
from isorl.experiments.grid.work import claimed, score_of, work
from isorl.experiments.run import experiment
from isorl.experiments.run.returns import Returns

ROOT = Path(__file__).parents[3]


@pytest.fixture
def config(tiny, tmp_path):
    return replace(Composer()(tiny), run_dir=str(tmp_path / "cell"))


def test_runs_then_skips(config, capfd):
    first, second = work(config), work(config)
    assert (first.did, second.did) == ("run", "skipped")
    assert second.score == first.score == first.score
    assert capfd.readouterr() == ("", ""), "the grid's table has the terminal to itself"


def test_dead_before_its_first_checkpoint_begins_again(config):
    whole, folder = work(config), Path(config.run_dir)
    for file in folder.iterdir():
        if file.name not in ("config.yaml", "run.json"):
            file.unlink()
    again = work(config)
    assert (again.did, again.score) == ("resumed", whole.score)


def test_stopped_in_the_middle_resumes_to_the_same_end(config, tmp_path, monkeypatch):
    other = replace(config, run_dir=str(tmp_path / "other"))
    add, calls = Returns.add, itertools.count()

    def adds_and_is_told_to_stop(*given):
        add(*given)
        if next(calls) == 40:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Returns, "add", adds_and_is_told_to_stop)
    with pytest.raises(Interrupted):
        work(other)
    monkeypatch.undo()
    resumed, whole = work(other), work(config)
    assert (resumed.did, whole.did) == ("resumed", "run")
    ours, theirs = (json.loads((Path(c.run_dir) / "summary.json").read_text()) for c in (other, config))
    assert ours["returns"] == theirs["returns"]


@pytest.mark.parametrize("launching", [False, True])
def test_signal_to_a_worker_stops_its_job_and_one_to_the_launcher_the_grid(
    tiny, tmp_path, monkeypatch, launching
):
    config = composed([*tiny, f"run_dir={tmp_path / 'cell'}"])
    sweeper = SimpleNamespace(_target_="hydra_plugins.isorl.GridSweeper")
    hydra = SimpleNamespace(sweeper=sweeper, overrides=SimpleNamespace(task=["run_dir=here"]))
    monkeypatch.setattr(work_module.HydraConfig, "get", lambda: hydra)
    monkeypatch.setattr(work_module, "launching", launching)
    monkeypatch.setattr(Returns, "add", lambda *given: os.kill(os.getpid(), signal.SIGUSR2))
    if launching:
        with pytest.raises(Interrupted):
            work_module.job(config)
    else:
        [outcome] = work_module.job(config)
        assert (outcome.did, outcome.reason) == ("stopped", "Stopped by SIGUSR2.")
    monkeypatch.undo()
    assert work(replace(Composer()(tiny), run_dir=str(tmp_path / "cell"))).did == "resumed"


def test_failure_is_written_with_its_reason_and_forgotten_after_success(config, monkeypatch):
    def breaks(_):
        print("about to break")
        raise ValueError("on purpose")

    monkeypatch.setattr(experiment, "start", breaks)
    outcome = work(config)
    record = json.loads(beside(Path(config.run_dir), "failure.json").read_text())
    assert (outcome.did, outcome.reason) == ("failed", "ValueError: on purpose")
    assert record["reason"] == "ValueError: on purpose"
    assert "about to break" in record["said"]
    assert "breaks" in record["traceback"]
    monkeypatch.undo()
    assert work(config).did == "run"
    assert not beside(Path(config.run_dir), "failure.json").exists()


def test_folder_of_another_configuration_is_refused(config):
    work(config)
    outcome = work(replace(config, seed=5))
    assert outcome.did == "failed"
    assert "another configuration" in outcome.reason


def test_two_launchers_cannot_run_one_cell(config):
    with claimed(Path(config.run_dir)):
        assert work(config).did == "busy"
    assert work(config).did == "run"


def test_claim_dies_with_its_process(config):
    code = (
        "import time, sys; from pathlib import Path; from isorl.experiments.grid.work import claimed\n"
        f"with claimed(Path({config.run_dir!r})): print('mine', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert work(config).did == "busy"
        os.kill(holder.pid, signal.SIGKILL)
    time.sleep(0.1)
    assert work(config).did == "run"


def test_random_agent_measures_each_task(tiny, tmp_path):
    config = replace(Composer()([*tiny, "reference=random"]), run_dir=str(tmp_path / "random"))
    assert work(config).did == "run"
    rows = json.loads((tmp_path / "random" / "summary.json").read_text())["returns"]
    assert [row["episodes"] >= work_module.random_agent.EPISODES for row in rows] == [True, True]
    assert all(-1 <= row["mean"] < 0 for row in rows)  # envs/scores.csv: -0.71
    assert work(config).did == "skipped"
    (tmp_path / "random" / "summary.json").unlink()
    assert work(config).did == "run"


def test_fresh_agents_start_anew_in_each_visit(tiny, tmp_path):
    """With a fresh agent per task, what the first task was does not matter to the weights after the switch."""
    config = replace(Composer()([*tiny, "reference=fresh"]), run_dir=str(tmp_path / "fresh"))
    assert work(config).did == "run"
    assert "full_reset" in (tmp_path / "fresh" / "config.yaml").read_text()
    shutil.rmtree(tmp_path / "fresh")


@pytest.mark.parametrize(("means", "score"), [([1.0, 3.0], 2.0), ([1.0, None], math.nan), ([], math.nan)])
def test_a_run_with_a_visit_without_episodes_has_no_score(means, score):
    assert score_of({"returns": [{"mean": mean} for mean in means]}) == pytest.approx(score, nan_ok=True)
