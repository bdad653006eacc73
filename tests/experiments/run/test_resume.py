"""An interrupted run goes on from its checkpoint, and its records stay whole."""

import itertools
import json
import os
import signal
from collections import deque
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from isorl.configs import UserError
from isorl.configs.errors import Interrupted
from isorl.configs.schema import CheckpointConfig
from isorl.experiments.run import checkpoint_file, checkpoint_manager, experiment
from isorl.experiments.run.callback import RunCallback
from isorl.experiments.run.folder import RunFolder
from isorl.plasticity.methods import METHODS


def interrupt_at(monkeypatch, step):
    """Sends this process SIGINT once the run has made `step` agent steps."""
    on_step = RunCallback._on_step
    sent = []

    def watched(self):
        if self.model.num_timesteps >= step and not sent:
            sent.append(True)
            os.kill(os.getpid(), signal.SIGINT)
        return on_step(self)

    monkeypatch.setattr(RunCallback, "_on_step", watched)
    return sent


@pytest.mark.parametrize("agent", ["ppo", "dqn"])
def test_interrupted_run_continues(configured, tmp_path, monkeypatch, agent):
    folder, before = tmp_path / "run", signal.getsignal(signal.SIGINT)
    config = configured("sequence=nine_rooms-smoke", f"agent={agent}", f"run_dir={folder}", "log_every=128")
    sent = interrupt_at(monkeypatch, 2500)
    with pytest.raises(Interrupted) as stopped:
        experiment.start(config)
    assert sent
    assert stopped.value.exit_code == 130
    assert not (folder / "summary.json").exists()
    halfway = torch.load(folder / "checkpoint.pt", weights_only=True)["counters"]["num_timesteps"]
    assert 2500 <= halfway < 4096

    summary = experiment.resume(str(folder))
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["counters"]["num_timesteps"] == 4096
    assert [row["visit"] for row in summary["returns"]] == [0, 1]
    assert len(summary["evaluation"]["after_visit"]) == 2
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    places = [(record["key"], record["agent_step"], record["visit"]) for record in records]
    assert len(places) == len(set(places)), "no record is doubled"
    rows = [record["agent_step"] for record in records if record["key"] == "time/fps"]
    assert {right - left for left, right in itertools.pairwise(rows)} == {128}, "no row is missing"
    assert signal.getsignal(signal.SIGINT) is before


def test_finished_run_is_not_resumed(configured, tmp_path):
    folder = tmp_path / "run"
    experiment.start(configured("sequence=cartpole-smoke", f"run_dir={folder}"))
    with pytest.raises(UserError, match="is finished"):
        experiment.resume(str(folder))


@pytest.mark.parametrize("agent", ["ppo", "dqn"])
def test_damaged_newest_checkpoint_gives_way_to_the_one_before(configured, tmp_path, agent):
    """And the run ends as if nothing had been, records included."""
    folder = tmp_path / "run"
    words = ["sequence=nine_rooms-smoke", f"agent={agent}", "checkpoint.every=2048", "log_every=256"]
    experiment.start(configured(*words, f"run_dir={folder}"))
    files = ("checkpoint.pt", "metrics.jsonl")
    whole = [read(folder / name) for name in files]
    content = (folder / "checkpoint.pt").read_bytes()
    (folder / "checkpoint.pt").write_bytes(content[: len(content) // 2])
    experiment.resume(str(folder))
    assert "The one before is used" in (folder / "run.log").read_text()
    assert [read(folder / name) for name in files] == whole


def read(path):
    """The weights of a checkpoint, or the records without the clock."""
    if path.suffix == ".pt":
        return {k: v.tolist() for k, v in torch.load(path, weights_only=True)["policy"].items()}
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [record for record in records if not record["key"].startswith("time/")]


def test_all_checkpoints_damaged_is_refused(configured, tmp_path):
    folder = tmp_path / "run"
    experiment.start(configured("sequence=cartpole-smoke", f"run_dir={folder}"))
    for path in folder.glob("checkpoint*.pt"):
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"checkpoint\.pt' cannot be used"):
        experiment.resume(str(folder))


def test_run_that_died_before_its_first_checkpoint_begins_anew(configured, tmp_path):
    folder = tmp_path / "run"
    experiment.start(configured("sequence=nine_rooms-smoke", f"run_dir={folder}"))
    whole = [read(folder / name) for name in ("checkpoint.pt", "metrics.jsonl")]
    for path in folder.glob("checkpoint*.pt"):
        path.unlink()
    experiment.resume(str(folder))
    assert [read(folder / name) for name in ("checkpoint.pt", "metrics.jsonl")] == whole
    assert len(list(folder.glob("events.*"))) == 1


def test_checkpoint_of_another_network_is_refused(configured, tmp_path):
    experiment.start(configured("sequence=cartpole-smoke", f"run_dir={tmp_path / 'a'}"))
    experiment.start(
        configured("sequence=cartpole-smoke", "network.widths=[8,8]", f"run_dir={tmp_path / 'b'}")
    )
    for name in ("checkpoint.pt", "checkpoint-1.pt"):
        (tmp_path / "b" / name).write_bytes((tmp_path / "a" / name).read_bytes())
    with pytest.raises(UserError, match="cannot be used"):
        experiment.resume(str(tmp_path / "b"))


@pytest.mark.parametrize(
    ("words", "cycles", "reason"),
    [
        ([], 1, "the run has 1 already"),
        (
            ["agent.learning_rate_final=0"],
            2,
            r"the learning rate falls over the whole run \(switch.learning_rate",
        ),
        (["agent=dqn", "switch.exploration=run"], 2, "epsilon falls over the whole run"),
        (["checkpoint.keep=1"], 2, r"no checkpoint from before its end.*checkpoint.keep=1"),
    ],
)
def test_what_cannot_be_made_longer_is_refused_and_left_as_it_is(configured, tmp_path, words, cycles, reason):
    folder = tmp_path / "run"
    experiment.start(configured("sequence=cartpole-smoke", "log_every=64", *words, f"run_dir={folder}"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match=reason):
        experiment.resume(str(folder), cycles=cycles)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_longer_run_that_was_killed_at_once_is_resumed_as_a_longer_one(configured, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    experiment.start(configured("sequence=nine_rooms-smoke", f"run_dir={folder}"))
    with monkeypatch.context() as patched:
        patched.setattr(experiment, "_train", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            experiment.resume(str(folder), cycles=2)
    assert not (folder / "summary.json").exists()
    assert len(experiment.resume(str(folder))["returns"]) == 4


@pytest.mark.parametrize(
    ("error", "said"),
    [(UserError("of the run itself"), "^of the run itself"), (KeyError("at"), "does not fit this run")],
)
def test_a_part_of_a_checkpoint_that_is_refused_is_never_passed_over(tmp_path, monkeypatch, error, said):
    monkeypatch.setattr(checkpoint_manager.checkpoint, "restore", lambda agent, state: None)
    manager = checkpoint_manager.CheckpointManager(RunFolder(tmp_path), CheckpointConfig(), SimpleNamespace())
    run = SimpleNamespace(load_state_dict=Mock(side_effect=error))
    with pytest.raises(UserError, match=said):
        manager._restore({"run": {}}, run)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.zeros(3), "numpy.ndarray"),
        (np.float64(1), "numpy.float64"),
        (deque([1]), "collections.deque"),
        (min, "builtin"),
    ],
    ids=str,
)
def test_what_no_checkpoint_could_give_back_is_refused_when_it_is_saved(value, kind):
    held = {"weights": torch.zeros(2), "methods": {"mine": {"count": 1, "seen": [0, value]}}}
    with pytest.raises(UserError, match=rf"'methods/mine/seen/1', of type {kind}"):
        checkpoint_file.to_bytes(held)


def test_an_own_method_that_saves_what_cannot_be_read_ends_the_run_at_its_start(
    configured, tmp_path, monkeypatch
):
    monkeypatch.setattr(METHODS["redo"], "state_dict", lambda self: {"seen": np.zeros(3)})
    config = configured(
        "sequence=nine_rooms-smoke", "network=relu", "method=[redo]", f"run_dir={tmp_path / 'run'}"
    )
    with pytest.raises(UserError, match=r"'methods/redo/seen', of type numpy\.ndarray"):
        experiment.start(config)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["agent_step"] <= 1024 for row in rows)
