"""From words to what Hydra takes: paths, flags, hints."""

import dataclasses
import os
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from isorl.configs import SequenceConfig, TaskConfig, UserError, command_line
from isorl.configs.command_line import check_overrides, composed, imports_in, prepared
from isorl.configs.errors import closest, nearest


@pytest.mark.parametrize(
    "path", ["a=b", "a#b", "a[b", "it's", "Ümläut", "a b", "a,b", "a\\", "{x}", "'quoted"]
)
def test_paths_may_hold_any_character(path):
    assert composed(prepared([f"run_dir=/tmp/{path}"])).run_dir == f"/tmp/{path}"
    assert composed(prepared([f"resume={path}"])).resume == path


def test_paths_may_be_quoted_and_refer_to_values():
    assert composed(prepared(["run_dir='a b'"])).run_dir == "a b"
    assert composed(prepared(["run_dir=runs/${seed}#", "seed=3"])).run_dir == "runs/3#"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seed", "3"], "seed=3"),
        (["--seed=3"], "seed=3"),
        (["--multrun"], "--multirun"),
        (["--cfg"], "needs a value"),
        (["agent.lr=1"], "'agent.learning_rate'"),
        (["agent.tauu=1"], "Nearest of"),
        (["n_steps=1"], "'agent.n_steps'"),
        (["+agent.gamma=0.5"], "Leave out the '+': agent.gamma=0.5"),
        (["agent.n_step=1"], "'agent.n_steps'"),
        (["optimiser.iso_lambda=1"], "'optimizer'"),
        (["seed=a=b#"], "cannot be read"),
        (["sequence=qqq"], "isorl list sequences"),
    ],
)
def test_hints(words, said):
    with pytest.raises(UserError) as refused:
        check_overrides(prepared(words))
    assert said in str(refused.value)
    assert "Exception" not in str(refused.value)


@pytest.mark.parametrize("flag", ["-m", "--multirun"])
def test_a_benchmark_and_several_values_need_the_flag_of_a_grid(flag):
    words = ["+benchmark=control_quick", "seed=0,1"]
    assert check_overrides(prepared([flag, *words])) == [flag, *words]
    with pytest.raises(UserError, match="A benchmark is a grid of runs"):
        check_overrides(prepared(words[:1]))
    with pytest.raises(UserError):
        check_overrides(prepared(words[1:]))


def test_flags_keep_their_values():
    assert prepared(["seed=1", "--cfg", "job", "-m"]) == ["--cfg=job", "-m", "seed=1"]


def test_files_of_imports_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = prepared(["imports=[my.module,./a b.py]"])
    assert imports_in(words) == ["my.module", str(tmp_path / "a b.py")]
    assert list(composed(words).imports) == imports_in(words)
    assert imports_in(prepared(["imports=my.module"])) == ["my.module"]


def test_own_folders_serve_every_group(tmp_path, monkeypatch):
    monkeypatch.setattr(command_line, "own_folders", [])
    (tmp_path / "network").mkdir()
    (tmp_path / "network" / "mine.yaml").write_text("widths: [8]\nactivation: relu\n")
    words = check_overrides(prepared([f"--config-dir={tmp_path}", "network=mine"]))
    assert f"--config-dir={tmp_path}" in words
    assert composed(["network=mine"]).network.widths == [8]


def test_a_list_of_names_is_short():
    names = [f"name_{number}" for number in range(30)]
    assert nearest("zebra", names, "isorl list names").count("name_") == 5
    assert nearest("zebra", names, "isorl list names").endswith("All: isorl list names")
    assert closest("lr", ["learning_rate", "tau"]) == "learning_rate"
    assert closest("zebra", names) is None


def test_plugins_keep_what_they_store_at_their_first_import(tmp_path):
    """As hydra-ray-launcher does, whose file is not executed again when Hydra looks for plugins a second time."""
    plugin = tmp_path / "hydra_plugins" / "fake_launcher"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").touch()
    (plugin / "fake.py").write_text("from hydra_plugins.fake_launcher import _config\n")
    store = "ConfigStore.instance().store(group='hydra/launcher', name='fake', node={'_target_': 'x'})\n"
    (plugin / "_config.py").write_text(f"from hydra.core.config_store import ConfigStore\n{store}")
    program = (
        "from isorl.configs.command_line import composed\n"
        "from hydra.core.config_store import ConfigStore\n"
        "composed(['seed=1'])\n"
        "print(sorted(ConfigStore.instance().repo['hydra']['launcher']))\n"
    )
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert "fake.yaml" in answer.stdout, answer.stderr


def test_every_sequence_takes_what_its_file_leaves_out():
    sequence = composed(["sequence=cartpole-smoke", "sequence.cycles=3", "sequence.order=shuffled"]).sequence
    assert (sequence.cycles, sequence.order) == (3, "shuffled")
    left_out = {field.name for field in dataclasses.fields(SequenceConfig)} - {
        "name",
        "tasks",
        "source",
        "tuning",
    }
    defaults = OmegaConf.load(command_line.FOLDER / "schedule.yaml")
    assert defaults == {
        name: getattr(SequenceConfig("", [TaskConfig("a", agent_steps=1)]), name) for name in left_out
    }


@pytest.mark.parametrize(
    "word", ["seed=1", "agent.n_steps=8", "sequence=cartpole", "sequence.order=shuffled"]
)
def test_a_resumed_run_takes_more_cycles_and_nothing_else(word):
    assert check_overrides(["resume=here", "sequence.cycles=3"]) == ["resume=here", "sequence.cycles=3"]
    with pytest.raises(UserError, match=r"cannot be combined with '.*Only 'sequence.cycles' may grow"):
        check_overrides(["resume=here", word])
    with pytest.raises(UserError, match=r"cannot be combined with 'sequence\.cycles'"):
        check_overrides(["play=here", "sequence.cycles=3"])
