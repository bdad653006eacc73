"""Every logger holds what metrics.jsonl holds, also for runs that share a process and for resumed ones."""

import csv
import importlib.util
import json
import math
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from isorl.configs import UserError
from isorl.configs.command_line import composed, resolve
from isorl.experiments.run import experiment
from isorl.experiments.run.loggers import LOGGERS, RunLogger
from isorl.experiments.run.loggers.base import group_of
from isorl.experiments.run.loggers.mlflow import metric_name

WORDS = [
    "agent=ppo", "sequence=catch_permuted-smoke", "sequence.tasks.0.agent_steps=64", "agent.n_envs=2",
    "agent.n_steps=16", "agent.batch_size=16", "agent.n_epochs=1", "evaluation.episodes=1", "device=cpu",
    "evaluation.max_episode_steps=20", "network=relu", "optimizer=adam", "log_every=32",
]  # fmt: skip
INSTALLED = [name for name in ("wandb", "trackio", "mlflow") if importlib.util.find_spec(name)]


def configured(*words):
    return resolve(composed([*WORDS, "run_dir=run", *words]))


def recorded(folder: Path) -> Counter:
    """(key, agent step) of every finite number in metrics.jsonl."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return Counter((row["key"], row["agent_step"]) for row in lines if _is_number(row["value"]))


def _is_number(value) -> bool:
    return not isinstance(value, list) and math.isfinite(value)


def in_csv(folder: Path) -> Counter:
    with (folder / "metrics.csv").open(newline="") as file:
        return Counter((row["key"], int(row["agent_step"])) for row in csv.DictReader(file))


def test_csv_holds_every_number_once_also_after_resuming(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    config = configured(f"run_dir={folder}", "logger=[tensorboard,csv]", "checkpoint.every=64")
    evaluate, calls = experiment.Evaluator.mean_return, []

    def fails_once(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:  # in the second visit
            raise RuntimeError("the power is gone")
        return evaluate(self, *arguments)

    monkeypatch.setattr(experiment.Evaluator, "mean_return", fails_once)
    with pytest.raises(RuntimeError, match="power"):
        experiment.start(config)
    experiment.resume(str(folder))
    assert recorded(folder) == in_csv(folder)
    assert sum(key.startswith("eval/mean") for key, _ in in_csv(folder)) == 2
    scalars = EventAccumulator(str(folder)).Reload().Tags()["scalars"]
    kept_from_it = {"time/total_timesteps", "time/time_elapsed", "train/n_updates"}  # by stable-baselines3
    assert {key for key, _ in recorded(folder)} - set(scalars) == kept_from_it


def test_hparams_begin_with_what_tells_runs_apart(tmp_path):
    experiment.start(configured(f"run_dir={tmp_path / 'run'}", "method=[redo]"))
    metadata = EventAccumulator(str(tmp_path / "run")).Reload().summary_metadata
    found = [HParamsPluginData.FromString(data.plugin_data.content) for data in metadata.values()]
    (data,) = (data for data in found if data.HasField("experiment"))
    names = [info.name for info in data.experiment.hparam_infos]
    assert names[:6] == ["agent", "sequence", "network", "optimizer", "method", "seed"]


def test_groups_are_arms():
    base = group_of(configured("seed=0"))
    assert base == group_of(configured("seed=7", "run_dir=elsewhere", "logger=[csv]"))
    assert base != group_of(configured("agent.learning_rate=0.1"))
    assert base != group_of(configured("method=[l2_init]"))
    assert "catch_permuted-smoke ppo-relu-adam" in base


def test_what_cannot_log_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    config = configured(f"run_dir={tmp_path / 'run'}", "logger=[tensorbord]")
    with pytest.raises(UserError, match="Did you mean 'tensorboard'"):
        experiment.start(config)
    monkeypatch.setattr(LOGGERS["wandb"], "requires", "no_such_package")
    with pytest.raises(UserError, match=r"pip install 'isorl\[wandb\]'"):
        experiment.start(configured(f"run_dir={tmp_path / 'run'}", "logger=[wandb]"))
    assert not (tmp_path / "run").exists()


def test_no_logger_at_all_leaves_the_runs_own_record(tmp_path):
    experiment.start(configured(f"run_dir={tmp_path / 'run'}", "logger=[]"))
    assert recorded(tmp_path / "run")
    assert not list((tmp_path / "run").glob("events.*"))


def test_one_of_your_own(tmp_path, monkeypatch):
    written = []

    class Mine(RunLogger):
        def write_numbers(self, values, step):
            written.extend((key, step) for key in values)

    monkeypatch.setitem(LOGGERS._entries, "mine", Mine)
    experiment.start(configured(f"run_dir={tmp_path / 'run'}", "logger=[mine]"))
    assert Counter(written) == recorded(tmp_path / "run")


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """Two seeds in one process, with every logger that is installed, none of which reaches out."""
    if not INSTALLED:
        pytest.skip("none of wandb, trackio, mlflow is installed")
    folder = tmp_path_factory.mktemp("grid")
    places = {
        "WANDB_MODE": "offline",
        "TRACKIO_DIR": str(folder / "trackio"),
        "MLFLOW_TRACKING_URI": f"file://{folder}/mlflow",
        "MLFLOW_ALLOW_FILE_STORE": "true",
    }
    words = [
        *WORDS,
        "-m",
        "seed=0,1",
        f"logger=[csv,{','.join(INSTALLED)}]",
        f"hydra.sweep.dir={folder}/runs",
    ]
    answer = subprocess.run(
        [sys.executable, "-m", "isorl", "train", *words],
        env={**os.environ, **places}, cwd=folder, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    return folder


def runs_of(grid: Path) -> list[Path]:
    found = sorted(path.parent for path in grid.glob("runs/cells/*/*/summary.json"))
    assert len(found) == 2
    for folder in found:
        assert recorded(folder) == in_csv(folder)
    return found


def test_trackio(grid):
    if "trackio" not in INSTALLED:
        pytest.skip("not installed")
    (base,) = (grid / "trackio").glob("*.db")
    with sqlite3.connect(base) as connection:
        rows = connection.execute("SELECT run_name, step, metrics FROM metrics").fetchall()
    for folder in runs_of(grid):
        name = "/".join(folder.parts[-2:])
        found = Counter((key, step) for run, step, text in rows if run == name for key in json.loads(text))
        assert found == recorded(folder)


def test_mlflow(grid, monkeypatch):
    if "mlflow" not in INSTALLED:
        pytest.skip("not installed")
    program = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient()
experiment = client.get_experiment_by_name("isorl").experiment_id
print(json.dumps({run.data.tags["isorl_folder"]: [run.data.tags["group"], run.data.params["seed"], run.info.status,
    [[key, m.step] for key in run.data.metrics for m in client.get_metric_history(run.info.run_id, key)]]
    for run in client.search_runs([experiment])}))
"""
    places = {"MLFLOW_TRACKING_URI": f"file://{grid}/mlflow", "MLFLOW_ALLOW_FILE_STORE": "true"}
    answer = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **places}, capture_output=True, check=True
    )
    found = json.loads(answer.stdout)
    assert len({group for group, *_ in found.values()}) == 1
    assert {seed for _, seed, *_ in found.values()} == {"0", "1"}
    for folder in runs_of(grid):
        _, _, status, metrics = found[str(folder)]
        assert status == "FINISHED"
        expected = Counter(
            {(metric_name(key), step): count for (key, step), count in recorded(folder).items()}
        )
        assert Counter(map(tuple, metrics)) == expected


def test_wandb(grid):
    if "wandb" not in INSTALLED:
        pytest.skip("not installed")
    groups = set()
    for folder in runs_of(grid):
        (file,) = folder.glob("wandb/offline-run-*/*.wandb")
        content = file.read_bytes()
        for key, _ in recorded(folder):
            assert key.encode() in content, key
        groups |= {line for line in [b"catch_permuted-smoke ppo-relu-adam"] if line in content}
    assert len(groups) == 1
