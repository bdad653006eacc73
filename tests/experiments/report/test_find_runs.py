"""Which runs are found, and how they are told apart: nothing is merged that differs."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from torch.utils.tensorboard.writer import SummaryWriter

from isorl.configs import UserError
from isorl.experiments.grid import references
from isorl.experiments.grid.cell import Cell, State, identity
from isorl.experiments.grid.expand import Composer
from isorl.experiments.grid.grid import Grid
from isorl.experiments.report.find_runs import find_runs
from isorl.experiments.report.labels import NO_ENVIRONMENT, name_logs
from isorl.experiments.report.read_tensorboard import _binned, read_tensorboard
from isorl.experiments.report.study import Study
from isorl.experiments.report.write_report import write_report
from isorl.experiments.run.folder import RunFolder
from tests.experiments.report.synthetic import summary, write_grid

NO = NO_ENVIRONMENT
LOGS = {
    "rivals": {"baseline/PPO_1": (NO, "baseline/PPO", 1), "isometric/PPO_1": (NO, "isometric/PPO", 1)},
    "ids": {"CartPole-v1/PPO_1": ("CartPole-v1", "PPO", 1), "Pendulum-v1/PPO_1": ("Pendulum-v1", "PPO", 1)},
    "names": {"CartPole/a/PPO_1": ("CartPole", "a/PPO", 1), "pendulum/a/PPO_1": ("pendulum", "a/PPO", 1)},
    "as the zoo": {"ppo/Ant-v5_1": ("Ant-v5", "ppo", 1), "sac/Ant-v5_3": ("Ant-v5", "sac", 3)},
    "several runs": {"PPO_1": (NO, "PPO", 1), "PPO_2": (NO, "PPO", 2)},
    "a run that was deleted": {"PPO_1": (NO, "PPO", 1), "PPO_4": (NO, "PPO", 4)},
    "own names": {"first_try_1": (NO, "first_try", 1), "first_try_2": (NO, "first_try", 2)},
    "settings": {"width_64": (NO, "width_64", 0), "width_256": (NO, "width_256", 0)},
    "rates": {"lr_0.1": (NO, "lr_0.1", 0), "lr_0.01": (NO, "lr_0.01", 0)},
    "one name in two ways": {
        "a/CartPole/PPO_1": ("CartPole", "a/CartPole/PPO_1", 0),
        "CartPole/a/PPO_1": ("CartPole", "CartPole/a/PPO_1", 0),
    },
    "only an environment": {"CartPole-v1": ("CartPole-v1", "logs", 0)},
}


@pytest.mark.parametrize("expected", LOGS.values(), ids=LOGS)
def test_logs_are_named_by_their_folders(expected):
    root = Path("/somewhere/logs")
    names = name_logs({root / place: root for place in expected})
    assert {str(log.relative_to(root)): (n.sequence, n.arm, n.number) for log, n in names.items()} == expected


def log(folder, values, tag="rollout/ep_rew_mean"):
    with SummaryWriter(str(folder)) as writer:
        for number, value in enumerate(values):
            writer.add_scalar(tag, value, number * 100)


def places(found):
    return sorted((run.sequence, run.arm, run.seed) for run in found.runs)


def test_a_logs_curve_is_the_means_of_ten_equal_parts():
    steps, values = (
        np.array([0, 40, 100, 190, 850, 999, 1000]),
        np.array([1.0, 3.0, 4.0, 6.0, 7.0, 8.0, 10.0]),
    )
    curve = _binned(steps, values)
    np.testing.assert_allclose(curve, [2, 5, *[np.nan] * 6, 7, 9])
    np.testing.assert_allclose(_binned(np.array([0]), np.array([5.0])), [5.0, *[np.nan] * 9])


def test_a_logs_diagnostics_are_the_last_of_the_network_that_acts(tmp_path):
    with SummaryWriter(str(tmp_path / "PPO_1")) as writer:
        for step, value in ((0, 0.1), (100, 0.3)):
            for tag in (
                "rollout/ep_rew_mean",
                *(f"plasticity/dormant_units/{name}" for name in ("actor", "critic")),
                "plasticity/weight_norm/q",
                "plasticity/gram_deviation/actor/linear1",
                "train/loss/actor",
            ):
                writer.add_scalar(tag, value + (tag.endswith("critic")), step)  # fmt: skip
    (run,) = find_runs([tmp_path]).runs
    assert {key: float(value[0]) for key, value in run.diagnostics.items()} == pytest.approx(
        {"dormant_units": 0.3, "weight_norm": 0.3}
    )


def test_folders_that_are_named_one_by_one_are_told_apart(tmp_path):
    for name in ("baseline", "isometric"):
        log(tmp_path / name / "PPO_1", [1.0, 2.0])
    expected = [(NO_ENVIRONMENT, "baseline/PPO", 1), (NO_ENVIRONMENT, "isometric/PPO", 1)]
    for paths in (
        ["."],
        ["baseline", "isometric"],
        ["baseline/PPO_1", "isometric/PPO_1"],
        ["baseline", "isometric/PPO_1"],
    ):
        found = find_runs([tmp_path / path for path in paths])
        assert places(found) == expected
        assert "as if all had learned in the same one" in " ".join(found.warnings)


def test_logs_of_several_environments_are_several_sequences(tmp_path):
    for name in ("CartPole-v1/PPO_1", "CartPole-v1/PPO_2", "Pendulum-v1/PPO_1"):
        log(tmp_path / name, [1.0, 2.0])
    found = find_runs([tmp_path])
    assert places(found) == [("CartPole-v1", "PPO", 1), ("CartPole-v1", "PPO", 2), ("Pendulum-v1", "PPO", 1)]
    assert found.warnings == []
    write_report([tmp_path], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "told apart by their folders" in text
    assert "*CartPole-v1*" in text
    assert "*Pendulum-v1*" in text
    assert places(find_runs([tmp_path])) == places(found), "what the report wrote for TensorBoard is no log"


def write_run(folder, config, level=1.0):
    """A finished run of `config` whose every visit had about this return."""
    RunFolder(folder).path.mkdir(parents=True)
    RunFolder(folder).create(replace(config, run_dir=str(folder)))
    content = summary(np.random.default_rng(0), np.full(3, level), tasks=3, diagnostics=0)
    (folder / "summary.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def compose():
    return Composer()


ADAM, TENTH = "ppo relu adam", "agent.learning_rate=0.1"
SETTINGS = {
    "seeds": ([["seed=0"], ["seed=1"]], {ADAM: 2}),
    "rates": (
        [[TENTH], ["agent.learning_rate=0.2"]],
        {f"{ADAM} (agent.learning_rate=0.1)": 1, f"{ADAM} (agent.learning_rate=0.2)": 1},
    ),
    "rates on two seeds": (
        [["seed=1"], [TENTH], [TENTH, "seed=1"], ["seed=2"]],
        {f"{ADAM} (agent.learning_rate=0.1)": 2, f"{ADAM} (agent.learning_rate=0.001)": 2},
    ),
    "networks": ([["network=relu"], ["network=tanh"]], {ADAM: 1, "ppo tanh adam": 1}),
    "where it ran": ([["device=cpu", "seed=0"], ["device=auto", "seed=1"]], {ADAM: 2}),
}


@pytest.mark.parametrize(("runs", "expected"), SETTINGS.values(), ids=SETTINGS)
def test_runs_that_differ_in_more_than_their_seed_are_several_arms(compose, tiny, tmp_path, runs, expected):
    for number, overrides in enumerate(runs):
        write_run(tmp_path / "runs" / str(number), compose([*tiny, "agent.learning_rate=0.001", *overrides]))
    found = find_runs([tmp_path / "runs"])
    counts = {}
    for run in found.runs:
        counts[run.arm] = counts.get(run.arm, 0) + 1
    assert counts == expected
    assert bool(found.notes) == any("(" in arm for arm in expected)


def test_runs_on_sequences_of_one_name_that_differ_are_on_two(compose, tiny, tmp_path):
    for number, cycles in enumerate((1, 2)):
        write_run(tmp_path / str(number), compose([*tiny, f"sequence.cycles={cycles}"]))
    found = find_runs([tmp_path])
    assert [run.sequence.partition(" (")[2] for run in found.runs] == ["cycles=1)", "cycles=2)"]


def test_a_run_that_lies_there_twice_counts_once(compose, tiny, tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / name, compose(tiny))
    (tmp_path / "a" / "summary.json").unlink()
    found = find_runs([tmp_path])
    assert [(run.folder.name, run.state) for run in found.runs] == [("b", State.FINISHED)]
    assert "repeat a run" in found.notes[0]


@pytest.mark.parametrize("in_a_grid", [False, True])
def test_references_are_found_by_what_they_are(compose, tiny, tmp_path, in_a_grid):
    config = compose(tiny)
    configs = {"run": config, "fresh": references.fresh(config), "random": references.random(config)}
    for name, one in configs.items():
        write_run(tmp_path / "cells" / name, one, {"run": 0.5, "fresh": 1.0, "random": 0.0}[name])
    if in_a_grid:
        cells = [
            Cell(identity(one), tmp_path / "cells" / name, (f"reference={name}",), "catch", name, 0, 3000,
                 "random" if name == "random" else "arm") for name, one in configs.items()
        ]  # fmt: skip
        Grid("sweep", cells).save(tmp_path)
    study = Study(find_runs([tmp_path / ("grids" if in_a_grid else "cells")]).runs)
    [run] = [run for run in study.runs if run.folder.name == "run"]
    assert study.ratios(run) == pytest.approx(0.5, abs=0.05)


def write_grid_of(root, config):
    """A grid of two seeds of `config`, its arm called Adam."""
    grid = Grid.load(write_grid(root, {"Adam": 0.1}, sequences=1, seeds=2, visits=4))
    for cell in grid.cells:
        if cell.kind == "arm":
            text = OmegaConf.to_yaml(OmegaConf.structured(replace(config, seed=cell.seed)))
            (cell.folder / "config.yaml").write_text(text)


def test_arms_of_one_name_in_two_grids_are_merged_only_where_they_are_the_same(compose, tiny, tmp_path):
    """And a folder of grids is as good as each of them."""
    for name, rate in (("one", 0.1), ("other", 0.2), ("same", 0.1)):
        write_grid_of(tmp_path / name, compose([*tiny, f"agent.learning_rate={rate}"]))
    found = find_runs([tmp_path / "one" / "grids", tmp_path / "other"])
    arms = {run.arm for run in found.runs if run.kind == "arm"}
    assert arms == {"Adam (agent.learning_rate=0.1)", "Adam (agent.learning_rate=0.2)"}
    assert found.grid is None
    both = find_runs([tmp_path / "one" / "grids", tmp_path / "same" / "grids"])
    assert {run.arm for run in both.runs if run.kind == "arm"} == {"Adam"}


def test_a_folder_of_grids_is_reported(tmp_path):
    write_grid(tmp_path, {"keeps": 0.0, "loses": 0.1}, sequences=1, seeds=2, visits=4)
    [file, *_] = write_report([tmp_path / "grids"])
    assert file == tmp_path / "grids" / "synthetic" / "report.html", "into the grid's own folder"
    assert find_runs([tmp_path]).grid is not None


def empty_returns(path):
    """As of a run in which no episode ended, or whose returns are NaN."""
    content = json.loads(path.read_text())
    for row in content["returns"]:
        row |= {"mean": None, "end": None, "curve": [None] * 10}
    content["evaluation"]["after_visit"] = [[None] * 4 for _ in content["returns"]]
    content["diagnostics"] = [dict.fromkeys(row) for row in content["diagnostics"]]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("which", ["keeps-sequence 0-0", "keeps", "fresh", "random", ""])
def test_runs_of_nan_returns_end_no_report(tmp_path, capsys, which):
    grid = write_grid(tmp_path, {"keeps": 0.0, "loses": 0.1}, sequences=2, seeds=2, visits=4)
    for path in (tmp_path / "cells").rglob("summary.json"):
        if path.parent.name.startswith(which):
            empty_returns(path)
    write_report([grid])
    text = (grid / "report.md").read_text()
    assert "## Warnings" in text
    assert "are NaN" in text
    assert "are NaN" in capsys.readouterr().err


def test_a_log_of_nan_returns_has_failed(tmp_path):
    log(tmp_path / "PPO_1", [1.0, 2.0])
    log(tmp_path / "PPO_2", [1.0, math.nan])
    found = find_runs([tmp_path])
    assert [run.state for run in found.runs] == [State.FINISHED, State.FAILED]
    write_report([tmp_path], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "is not finite from agent step 100 on" in text
    assert Study(found.runs).by_seed("average_performance", NO_ENVIRONMENT, "PPO") == {1: 1.5}


def test_a_log_that_cannot_be_read_has_failed_and_the_others_are_read(tmp_path, monkeypatch):
    for number in (1, 2):
        log(tmp_path / f"PPO_{number}", [1.0, 2.0])

    def damaged(run):
        if run.seed == 2:
            raise ValueError("damaged")
        return read_tensorboard(run)

    monkeypatch.setattr("isorl.experiments.report.find_runs.read_tensorboard", damaged)
    first, second = find_runs([tmp_path]).runs
    assert (first.state, list(first.curve[0, [0, -1]])) == (State.FINISHED, [1.0, 2.0])
    assert (second.state, second.notes) == (State.FAILED, ["its log cannot be read: ValueError: damaged"])


DAMAGED = {
    "torn": '{"returns": [',
    "of nothing": "{}",
    "no visits": '{"returns": [], "seconds": 1}',
    "a list": "[]",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_summary_that_cannot_be_read_ends_no_report(tmp_path, content):
    grid = write_grid(tmp_path, {"keeps": 0.0, "loses": 0.1}, sequences=1, seeds=2, visits=4)
    (tmp_path / "cells" / "sequence 0" / "loses-sequence 0-0" / "summary.json").write_text(content)
    write_report([grid])
    text = (grid / "report.md").read_text()
    assert "its files cannot be read" in text
    [warning] = find_runs([grid]).warnings
    assert warning.startswith("The files of 'loses on sequence 0, run 0' cannot be read")
    assert warning in text


def test_a_grid_of_another_version_is_named_and_the_others_are_reported(tmp_path):
    grid = write_grid(tmp_path, {"keeps": 0.0, "loses": 0.1}, sequences=1, seeds=2, visits=4)
    old = tmp_path / "grids" / "old"
    old.mkdir()
    (old / "grid.json").write_text((grid / "grid.json").read_text().replace('"overrides"', '"words"'))
    assert "another version" in find_runs([tmp_path / "grids"]).warnings[0]
    with pytest.raises(UserError, match="another version"):
        find_runs([old])


def test_configurations_of_other_projects_are_no_runs(tmp_path):
    (tmp_path / "hydra").mkdir()
    (tmp_path / "hydra" / "config.yaml").write_text("db: mysql\n")
    with pytest.raises(UserError, match="holds no grid"):
        find_runs([tmp_path])
    (tmp_path / "hydra" / "run.json").write_text("{}")
    with pytest.raises(UserError, match="holds no grid"):
        find_runs([tmp_path])
