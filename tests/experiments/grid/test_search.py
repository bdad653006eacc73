"""Optuna's proposals, with a launcher that writes the returns of a known function instead of training."""

import json
import math
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from isorl.configs import UserError, typed
from isorl.configs.suite import BenchmarkConfig
from isorl.experiments.grid import cost, tuning
from isorl.experiments.grid.launch import STOPPED
from isorl.experiments.grid.search import search

BUDGET = 9
RATE = "agent.learning_rate=tag(log,interval(1e-5,1e-1))"


@pytest.fixture
def optuna():
    return pytest.importorskip("optuna", reason="hydra/sweeper=optuna is optional: pip install optuna")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(cost, "measured_speed", lambda config: 1000.0)


@pytest.fixture
def hydra(tiny, tmp_path):
    """hydra(folder) -> what Hydra composes for the tuning of two arms."""

    def composed(folder="a", **more):
        launcher = {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}
        benchmark = {
            "name": "tiny", "about": "", "arms": {"Adam": [], "LayerNorm": ["network=layer_norm"]},
            "sequences": {"catch": tiny}, "seeds": [0, 1], "stage": "tune",
            "tuning": {"seeds": [7, 8], "budget": BUDGET, "space": {"agent.n_epochs": [1, 2]}}, **more,
        }  # fmt: skip
        sweep = {"dir": str(tmp_path / folder)}
        hydra = {"sweep": sweep, "launcher": launcher}
        return OmegaConf.create({"benchmark": benchmark, "hydra": hydra, "together": 1})

    return composed


class Known:
    """The return is highest at a learning rate of 1e-3; `before` sees each job's words first."""

    def __init__(self, before=lambda number: None) -> None:
        self.jobs: list[dict[str, str]] = []
        self.before = before

    def launch(self, job_overrides, initial_job_idx):
        for words in job_overrides:
            self.jobs.append({word.partition("=")[0]: word.partition("=")[2] for word in words})
            self.before(len(self.jobs))
            folder = Path(self.jobs[-1]["run_dir"].strip("'"))
            folder.mkdir(parents=True)
            score = -abs(math.log10(float(self.jobs[-1]["agent.learning_rate"])) + 3)
            content = {"returns": [{"mean": score}], "agent_steps": 64, "seconds": 1.0}
            (folder / "summary.json").write_text(json.dumps(content))
        return []


def record(hydra):
    return OmegaConf.load(Path(hydra.hydra.sweep.dir) / "grids" / "tiny-tune" / "tuned.yaml")


@pytest.mark.usefixtures("optuna")
def test_every_arm_gets_the_same_trials_on_tuning_seeds_and_the_report_takes_the_best(hydra, tmp_path):
    config, launcher = hydra(), Known()
    assert search(config, [RATE, "agent.gamma=0.9"], launcher) == 0
    assert {job["seed"] for job in launcher.jobs} == {"7", "8"}
    assert {job["agent.gamma"] for job in launcher.jobs} == {"0.9"}
    assert {job["agent.n_epochs"] for job in launcher.jobs} == {"1", "2"}
    found = record(config)
    assert [len(row.tried) for row in found.chosen.catch.values()] == [BUDGET, BUDGET]
    assert all(row.score > -0.5 for row in found.chosen.catch.values()), "within half a decade"
    suite = typed(BenchmarkConfig, OmegaConf.to_container(config.benchmark))
    suite.stage, suite.tuned = "report", str(tmp_path / "a" / "grids" / "tiny-tune" / "tuned.yaml")
    assert tuning.settings(suite)["catch", "Adam"] == list(found.chosen.catch.Adam.overrides)
    suite.seeds = [8]
    with pytest.raises(UserError, match=r"Seeds \[8\] chose the settings"):
        tuning.settings(suite)


@pytest.mark.usefixtures("optuna")
def test_a_search_that_was_stopped_goes_on_to_the_same_end(hydra):
    whole, parts = hydra("whole"), hydra("parts")
    assert search(whole, [RATE], Known()) == 0

    def stop(number):
        if number == 15:
            raise KeyboardInterrupt

    assert search(parts, [RATE], Known(stop)) == STOPPED
    assert not (Path(parts.hydra.sweep.dir) / "grids" / "tiny-tune" / "tuned.yaml").exists()
    rest = Known()
    assert search(parts, [RATE], rest) == 0
    assert len(rest.jobs) == 2 * 2 * BUDGET - 14
    assert record(parts) == record(whole)


class Breaks(Known):
    """Half of all settings end in a failure."""

    def launch(self, job_overrides, initial_job_idx):
        for words in job_overrides:
            rate = next(float(word.partition("=")[2]) for word in words if "learning_rate" in word)
            if rate < 3e-4:
                folder = Path(words[-1].partition("=")[2].strip("'"))
                failure = folder.parent / ".cells" / f"{folder.name}.failure.json"
                failure.parent.mkdir(parents=True, exist_ok=True)
                failure.write_text(json.dumps({"reason": "not finite"}))
            else:
                super().launch([words], initial_job_idx)
        return []


@pytest.mark.usefixtures("optuna")
def test_settings_that_fail_count_as_tried_and_are_never_chosen(hydra):
    config = hydra()
    search(config, [RATE], Breaks())
    for row in record(config).chosen.catch.values():
        assert len(row.tried) == BUDGET
        assert 0 < sum(map(math.isnan, row.tried.values())) < BUDGET
        assert not math.isnan(row.score)


@pytest.mark.usefixtures("optuna")
def test_a_dry_run_shows_the_first_round_and_runs_nothing(hydra, capsys):
    launcher = Known()
    assert search(hydra(), [RATE, "dry_run=true"], launcher) == 0
    assert launcher.jobs == []
    assert f"round 1 of {BUDGET}" in capsys.readouterr().err


@pytest.mark.usefixtures("optuna")
@pytest.mark.parametrize(
    ("words", "more", "expected"),
    [
        ([RATE], {"stage": "report"}, "tunes the arms of a benchmark"),
        ([RATE, "seed=1000"], {}, r"benchmark\.seeds"),
        ([], {"tuning": {"seeds": [7], "budget": 2, "space": {}}}, "nothing to search"),
        (["agent.learning_rat=interval(0.1,1)"], {}, "is not an option"),
    ],
)
def test_mistakes_of_a_search_are_answered(hydra, words, more, expected):
    with pytest.raises(UserError, match=expected):
        search(hydra(**more), words, Known())


def test_without_optuna_it_says_how_to_get_it(hydra, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match="pip install optuna"):
        search(hydra(), [RATE], Known())
