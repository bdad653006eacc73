"""`isorl.load` and `isorl.results`: their examples run as they stand, and they say what the run's own files say."""

import doctest
import importlib.util
import json
import os

import pytest
import torch

import isorl
from isorl.configs import UserError
from isorl.configs.command_line import composed, resolve
from isorl.experiments import tables
from isorl.experiments.run import experiment, load

WORDS = [
    "agent=ppo", "sequence=catch_permuted-smoke", "sequence.tasks.0.agent_steps=64", "agent.n_envs=2",
    "agent.n_steps=16", "agent.batch_size=16", "agent.n_epochs=1", "evaluation.episodes=0", "device=cpu",
    "checkpoint.every=64", "normalize.observations=true", "run_dir=runs/example",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a finished run in runs/example."""
    before, path = os.getcwd(), tmp_path_factory.mktemp("notebook")
    os.chdir(path)
    experiment.start(resolve(composed(WORDS)))
    yield path
    os.chdir(before)


@pytest.mark.parametrize(("module", "function"), [(load, "load"), (tables, "results")])
def test_examples_run(folder, module, function):
    example = doctest.DocTestFinder().find(getattr(module, function), function, globs={})[0]
    assert len(example.examples) >= 4
    assert doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example).failed == 0


def test_each_checkpoint_can_be_chosen(folder):
    newest, before = isorl.load("runs/example", 0), isorl.load("runs/example", 1)
    assert newest.agent_step == 128
    assert 0 < before.agent_step < 128
    saved = torch.load("runs/example/checkpoint-1.pt", weights_only=True)["policy"]
    for name, value in before.model.policy.state_dict().items():
        assert torch.equal(value, saved[name]), name
    assert any(
        not torch.equal(value, saved[name]) for name, value in newest.model.policy.state_dict().items()
    )


def test_the_environment_normalises_as_in_training(folder):
    run = isorl.load("runs/example")
    assert run.model.get_vec_normalize_env() is run.env
    assert run.env.obs_rms.count > 100


def test_what_is_not_there_is_named(folder):
    with pytest.raises(UserError, match="no checkpoint 7"):
        isorl.load("runs/example", 7)
    with pytest.raises(UserError, match="does not exist"):
        isorl.load("runs/other")
    with pytest.raises(UserError, match="'excel'"):
        isorl.results("runs/example", library="excel")
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        isorl.lode  # noqa: B018


def test_tables_hold_what_the_summary_holds(folder):
    summary = json.loads((folder / "runs/example/summary.json").read_text())
    made = isorl.results("runs/example", library="columns")
    means = [row["mean"] for row in summary["returns"]]
    assert made.visits["mean_return"] == means
    assert made.runs["mean_return"] == [pytest.approx(sum(means) / 2)]
    assert made.runs["agent_steps"] == [128]
    lines = [json.loads(line) for line in (folder / "runs/example/metrics.jsonl").read_text().splitlines()]
    numbers = [line for line in lines if not isinstance(line["value"], list)]
    assert made.measurements["value"] == [line["value"] for line in numbers]


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_tables_are_data_frames_where_that_is_installed(folder, library):
    if importlib.util.find_spec(library) is None:
        with pytest.raises(UserError, match=f"pip install {library}"):
            isorl.results("runs/example", library=library)
        return
    frame = isorl.results("runs/example", library=library).visits
    assert list(frame["visit"]) == [0, 1]
    assert frame.shape[0] == 2
