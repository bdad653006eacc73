"""A cell is its configuration."""

import json
from dataclasses import replace

import pytest
from omegaconf import OmegaConf

from isorl.configs import RunConfig, UserError, typed
from isorl.experiments.grid import references
from isorl.experiments.grid.cell import Cell, State, beside, folder_of, identity, newest_step
from isorl.experiments.grid.expand import Composer


@pytest.fixture(scope="module")
def compose():
    return Composer()


def test_identity_is_what_is_computed_not_where_or_how(compose, tiny):
    config = compose(tiny)
    same = replace(config, run_dir="elsewhere", device="cuda", threads=7)
    same.checkpoint.every = 17
    assert identity(same) == identity(config)
    assert identity(compose([*tiny, "seed=1"])) != identity(config)
    assert identity(compose([*tiny, "agent.learning_rate=1e-2"])) != identity(config)
    assert identity(compose([*tiny, "sequence.cycles=2"])) != identity(config)


def test_order_of_methods_counts_and_kind_of_number_does_not(compose, tiny):
    one = compose([*tiny, "method=[l2_init,shrink_and_perturb]"])
    other = compose([*tiny, "method=[shrink_and_perturb,l2_init]"])
    assert identity(one) != identity(other)
    assert identity(compose([*tiny, "agent.gamma=1"])) == identity(compose([*tiny, "agent.gamma=1.0"]))


def test_identity_survives_the_run_folder(compose, tiny, tmp_path):
    config = compose([*tiny, "method=[redo]", "optimizer=adamo"])
    OmegaConf.save(OmegaConf.structured(config), tmp_path / "config.yaml")
    assert identity(typed(RunConfig, OmegaConf.load(tmp_path / "config.yaml"))) == identity(config)


def test_values_tuned_for_other_agents_do_not_matter(compose, tiny):
    config = compose(tiny)
    other = compose(tiny)
    other.sequence.tuning["dqn"] = {"learning_rate": 1.0}
    assert identity(other) == identity(config)


def test_folder_is_readable(compose, tiny, tmp_path):
    config = compose([*tiny, "network=layer_norm", "method=[redo]", "seed=3"])
    folder = folder_of(config, tmp_path)
    assert folder.parent == tmp_path / "cells" / "catch_permuted-smoke"
    assert folder.name == f"ppo-relu+layer_norm-adam-redo-seed3-{identity(config)}"


def test_fresh_agents_are_shared_by_arms_that_differ_in_methods_alone(compose, tiny):
    plain, redo = compose(tiny), compose([*tiny, "method=[redo]"])
    assert identity(references.fresh(plain)) == identity(references.fresh(redo))
    assert identity(references.fresh(plain)) != identity(references.fresh(compose([*tiny, "network=aei"])))
    assert list(references.fresh(redo).method) == ["full_reset"]
    assert references.fresh(redo).switch.optimizer == "reset"


def test_random_agent_depends_on_sequence_and_seed_alone(compose, tiny):
    other = compose([*tiny, "network=aei", "optimizer=adamo", "log_every=7", "normalize.rewards=true"])
    assert identity(references.random(compose(tiny))) == identity(references.random(other))
    assert identity(references.random(compose([*tiny, "seed=1"]))) != identity(references.random(other))


def test_unknown_reference_is_answered(compose, tiny):
    with pytest.raises(UserError, match="Did you mean 'fresh'"):
        compose([*tiny, "reference=frsh"])


def test_state_is_what_lies_in_the_folder(tmp_path):
    cell = Cell("x", tmp_path / "run", (), "s", "a", 0, 100)
    assert (cell.state(), cell.steps_done()) == (State.WAITING, 0)
    cell.folder.mkdir()
    (cell.folder / "config.yaml").touch()
    (cell.folder / "metrics.jsonl").write_text('{"agent_step": 7, "task": "t"}\n{"agent_step": 42, "ta')
    assert (cell.state(), cell.steps_done()) == (State.STARTED, 42)
    failure = beside(cell.folder, "failure.json")
    failure.parent.mkdir()
    failure.write_text(json.dumps({"reason": "no"}))
    assert cell.state() is State.FAILED
    for damaged in ("", '{"returns": [{"mean": 1.', "{}", "[]", "\0\0"):
        (cell.folder / "summary.json").write_text(damaged)
        assert (cell.state(), cell.steps_done()) == (State.FAILED, 42)
    (cell.folder / "summary.json").write_text('{"returns": [{"mean": 1.0}]}')
    assert (cell.state(), cell.steps_done()) == (State.FINISHED, 100)


def test_newest_step_reads_the_end_of_a_long_file(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(f'{{"key": "k", "agent_step": {step}, "task": "t"}}\n' for step in range(5000)))
    assert newest_step(file) == 4999
    assert newest_step(tmp_path / "none") == 0
