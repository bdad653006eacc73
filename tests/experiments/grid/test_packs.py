"""Cells of one structure share a process: which, with what result, and what is left when it dies."""

import itertools
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from isorl.configs.errors import Interrupted
from isorl.experiments.grid import work as work_module
from isorl.experiments.grid.cell import Cell
from isorl.experiments.grid.expand import Composer
from isorl.experiments.grid.packs import key_of, overrides_of, packed
from isorl.experiments.grid.work import work, work_together
from isorl.experiments.run.folder import RunFolder
from isorl.experiments.run.returns import Returns

ROOT = Path(__file__).parents[3]


def cell(seed, arm="Adam", words=("network=relu",)):
    return Cell(
        f"{arm}{seed}", Path(f"/runs/{arm}-{seed}"), (*words, f"seed={seed}"), "catch", arm, seed, 100
    )


@pytest.fixture
def configs(tiny, tmp_path):
    config = Composer()([*tiny, "diagnostics.every=32", "log_every=32", "checkpoint.every=48"])
    return [replace(config, seed=seed, run_dir=str(tmp_path / f"seed{seed}")) for seed in (0, 1, 2)]


def records(config):
    lines = (Path(config.run_dir) / "metrics.jsonl").read_text().splitlines()
    every = [json.loads(line) for line in lines]
    return [record for record in every if not record["key"].startswith("time/")]


def summary(config):
    return json.loads((Path(config.run_dir) / "summary.json").read_text())


@pytest.mark.parametrize(
    ("count", "most", "workers", "sizes"),
    [(10, 10, 1, [10]), (10, 10, 2, [5, 5]), (11, 10, 1, [6, 5]), (3, 10, 8, [1, 1, 1]), (10, 1, 1, [1] * 10),
     (10, 4, None, [4, 3, 3])],
)  # fmt: skip
def test_sizes(count, most, workers, sizes):
    jobs = packed([cell(seed) for seed in range(count)], most, workers, lambda overrides: "alike")
    assert [len(job) for job in jobs] == sizes
    assert sorted(cell.seed for job in jobs for cell in job) == list(range(count))


def test_only_cells_alike_share():
    cells = [cell(seed, arm, (f"network={arm}",)) for seed in range(3) for arm in ("relu", "aei")]
    jobs = packed(cells, 10, 1, lambda overrides: "aei" if "network=aei" in overrides else None)
    assert sorted([cell.arm for cell in job] for job in jobs) == [["aei"] * 3, ["relu"], ["relu"], ["relu"]]


def test_cells_of_different_keys_or_sequences_do_not_share():
    """What agents compute as one decides, not how a cell is written down."""
    keys = {"a": "small", "b": "small", "c": "large", "d": None}
    cells = [cell(seed, arm, (f"arm={arm}",)) for arm in keys for seed in range(2)]
    cells += [replace(cell(seed, "b", ("arm=b",)), sequence="rain", id=f"rain{seed}") for seed in range(2)]
    jobs = packed(cells, 10, 1, lambda overrides: keys[overrides[0].removeprefix("arm=")])
    found = sorted("".join(f"{cell.sequence[0]}{cell.arm}" for cell in job) for job in jobs)
    assert found == ["cacacbcb", "cccc", "cd", "cd", "rbrb"]


def test_words():
    assert overrides_of([cell(4)]) == ["network=relu", "seed=4", "run_dir='/runs/Adam-4'"]
    assert overrides_of([cell(4), cell(7, "it's", ("network=relu", "method=[l2]"))]) == [
        "network=relu",
        r"pack=[['/runs/Adam-4','seed=4'],['/runs/it\'s-7','method=[l2]','seed=7']]",
    ]


@pytest.mark.parametrize(
    ("words", "shares"),
    [([], True), (["agent.exact=true"], False), (["optimizer=adamo", "network=aei"], True),
     (["method=[muon]"], True), (["method=[trac]"], False), (["reference=random"], False)],
    ids=str,
)  # fmt: skip
def test_which_cells_have_a_key(tiny, words, shares):
    assert (key_of(changed(tiny, *words)) is not None) == shares


@pytest.mark.parametrize(
    ("word", "same"),
    [("agent.learning_rate=1e-3", True), ("agent.ent_coef=0.1", True), ("method=[l2]", True), ("seed=5", True),
     ("agent.batch_size=8", False), ("agent.clip_range=0.1", False), ("agent.n_envs=4", False),
     ("network.widths=[8]", False), ("network=tanh", False)],
)  # fmt: skip
def test_keys_are_equal_where_runs_are_computed_as_one(tiny, word, same):
    """Rates, coefficients, strengths and methods may differ; structure and what an update loops over may not."""
    assert (key_of(changed(tiny, word)) == key_of(changed(tiny))) is same


def changed(tiny, *words):
    keys = {word.partition("=")[0] for word in words}
    return Composer()([*(word for word in tiny if word.partition("=")[0] not in keys), *words])


def test_the_same_as_alone(configs, tmp_path):
    together = work_together(configs)
    assert [outcome.did for outcome in together] == ["run"] * 3
    for config, outcome in zip(configs, together, strict=True):
        other = replace(config, run_dir=str(tmp_path / "alone" / str(config.seed)))
        assert outcome.score == work(other).score
        assert [summary(run)["together"] for run in (config, other)] == [3, 1]
        ours, theirs = records(config), records(other)
        assert [record | {"value": 0} for record in ours] == [record | {"value": 0} for record in theirs]
        for one, two in zip(ours, theirs, strict=True):
            if not one["key"].startswith("plasticity/"):  # measured on the same weights, elsewhere in memory
                assert one["value"] == pytest.approx(two["value"], rel=1e-5, abs=1e-6), one["key"]
        mine, its = (
            torch.load(Path(c.run_dir) / "checkpoint.pt", weights_only=True) for c in (config, other)
        )
        assert all(torch.equal(mine["policy"][name], weight) for name, weight in its["policy"].items())
        log = (Path(config.run_dir) / "run.log").read_text()
        assert log.count("visit 0 begins") == 1


def test_stopped_in_the_middle_resumes_to_the_same_end(configs, tmp_path, monkeypatch):
    others = [replace(config, run_dir=str(tmp_path / "stopped" / str(config.seed))) for config in configs]
    add, calls = Returns.add, itertools.count()

    def adds_and_is_told_to_stop(*given):
        add(*given)
        if next(calls) == 100:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Returns, "add", adds_and_is_told_to_stop)
    with pytest.raises(Interrupted):
        work_together(others)
    monkeypatch.undo()
    assert not any(RunFolder(other.run_dir).summary.exists() for other in others)
    last = work(others[2])  # alone: its time is no longer that of one among three, nor its own
    resumed, whole = [*work_together(others[:2]), last], work_together(configs)
    assert {outcome.did for outcome in resumed} == {"resumed"}
    assert [summary(config)["together"] for config in (*configs, *others)] == [3, 3, 3, None, None, None]
    assert [outcome.score for outcome in resumed] == [outcome.score for outcome in whole]
    for config, other in zip(configs, others, strict=True):
        assert records(other) == records(config)


def test_one_fails_and_the_others_go_on(configs, monkeypatch):
    advance = work_module._advance

    def fails(config):
        if config.seed == 1:
            raise ValueError("on purpose")
        return advance(config)

    monkeypatch.setattr(work_module, "_advance", fails)
    outcomes = work_together(configs)
    assert [outcome.did for outcome in outcomes] == ["run", "failed", "run"]
    assert outcomes[1].reason == "ValueError: on purpose"


def test_what_is_finished_is_skipped(configs):
    work(configs[1])
    assert [outcome.did for outcome in work_together(configs)] == ["run", "skipped", "run"]


def test_dqn(tiny, tmp_path):
    rest = [
        word for word in tiny if word.partition("=")[0] not in ("agent", "agent.n_steps", "agent.n_epochs")
    ]
    config = Composer()([*rest, "agent=dqn", "agent.learning_starts=16", "agent.train_freq=2"])
    configs = [replace(config, seed=seed, run_dir=str(tmp_path / str(seed))) for seed in (0, 1)]
    for outcome, config in zip(work_together(configs), configs, strict=True):
        assert outcome.score == work(replace(config, run_dir=str(tmp_path / f"alone{config.seed}"))).score


@pytest.mark.slow
def test_rates_and_methods_from_the_command_line(tiny, tmp_path):
    """Four cells in one job, each as it would be alone."""
    words = ["agent.learning_rate=1e-3,3e-3", "method=[redo],[l2_init]"]
    command = [sys.executable, "train.py", "-m", *tiny, *words, f"hydra.sweep.dir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folders = [file.parent for file in tmp_path.rglob("summary.json")]
    configs = [RunFolder(folder).load_config() for folder in folders]
    told = {(config.agent["learning_rate"], tuple(config.method)) for config in configs}
    assert told == set(itertools.product((1e-3, 3e-3), (("redo",), ("l2_init",))))
    for config in configs:
        alone = replace(config, run_dir=str(tmp_path / "alone" / Path(config.run_dir).name))
        work(alone)
        assert [summary(run)["together"] for run in (config, alone)] == [4, 1]
        assert summary(config)["returns"] == summary(alone)["returns"]
        ours, theirs = (torch.load(Path(run.run_dir) / "checkpoint.pt") for run in (config, alone))
        assert all(torch.equal(ours["policy"][name], weight) for name, weight in theirs["policy"].items())
