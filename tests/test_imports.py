"""`imports=[...]` finds what a user's own modules register, and a folder from a stranger runs nothing of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from isorl.configs import imports

ROOT = Path(__file__).parent.parent
RUN = [
    "--config-dir", "configs", "sequence=corridor_turns", "network=small_tanh", "optimizer=adam",
    "method=[bounded_weights]", "method.bounded_weights.bound=2", "evaluation.episodes=1", "device=cpu",
    "diagnostics.metrics=[weight_max]", "sequence.cycles=1",
]  # fmt: skip
EVIL = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The example in a folder with names that clash with those of this repository, and one run in it."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "examples" / "own_project", folder, dirs_exist_ok=True)
    for room in ("agents", "envs", "experiments", "plasticity"):
        (folder / room).mkdir()
        (folder / room / "__init__.py").write_text("raise RuntimeError('another project')\n")
    answer = isorl(folder, "train", "imports=[./corridor.py]", *RUN, "run_dir=runs/one")
    assert answer.returncode == 0, answer.stderr
    return folder


def isorl(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess:
    """The command as the installed script starts it: the current folder is not on sys.path."""
    start = "import sys; sys.path[:] = [p for p in sys.path if p]; from isorl.command import main; main()"
    answer = subprocess.run(
        [sys.executable, "-c", start, *words],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    answer.stderr = " ".join(answer.stderr.split())  # messages are wrapped
    return answer


def test_a_run_measures_and_records_what_was_imported(project):
    config = yaml.safe_load((project / "runs" / "one" / "config.yaml").read_text())
    assert config["imports"] == [str(project / "corridor.py")]
    assert config["method"] == {"bounded_weights": {"bound": 2}}
    assert '"plasticity/weight_max/actor"' in (project / "runs" / "one" / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_copies_in_processes_of_their_own_find_modules(project):
    words = ["imports=[./corridor.py]", *RUN, "faults.isolate=true", "sequence.tasks.0.agent_steps=64"]
    answer = isorl(project, "train", *words, "sequence.tasks.1.agent_steps=64", "run_dir=runs/isolated")
    assert answer.returncode == 0, answer.stderr


@pytest.mark.slow
def test_a_grid_of_two_workers_finds_modules_and_folders(project):
    words = ["-m", "--config-dir", "configs", "+benchmark=corridor", "hydra/launcher=joblib"]
    answer = isorl(project, "train", *words, "hydra.launcher.n_jobs=2", "evaluation.episodes=0")
    assert answer.returncode == 0, answer.stderr
    assert "6 of 6 cells are finished" in answer.stderr
    report = isorl(project, "report", "runs/grids/corridor")
    assert report.returncode == 0, report.stderr


@pytest.mark.slow
def test_what_was_recorded_is_taken_where_the_user_names_it_or_has_it(project):
    refused = isorl(project, "play", "runs/one")
    assert refused.returncode == 2
    assert "'corridor', which is not on sys.path" in refused.stderr
    named = isorl(project, "play", "runs/one", "imports=[corridor.py]")
    assert named.returncode == 0, named.stderr
    assert f"Imports corridor from {project / 'corridor.py'}" in named.stderr
    on_path = isorl(project, "resume", "runs/one", PYTHONPATH=str(project))
    assert "is finished" in on_path.stderr
    assert "Imports corridor from" in on_path.stderr


RARE = ("a module", "an id")


@pytest.mark.parametrize(
    "how",
    ["a file", "an id inside an argument", *(pytest.param(how, marks=pytest.mark.slow) for how in RARE)],
)
def test_a_folder_from_a_stranger_runs_nothing_of_its_own(project, tmp_path, how):
    """Neither with its folder as the current one, nor on PYTHONPATH."""
    run = tmp_path / "run"
    shutil.copytree(project / "runs" / "one", run)
    (run / "evil.py").write_text(EVIL)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["imports"] = {"a module": ["evil"], "a file": [str(run / "evil.py")]}.get(how, [])
    if how == "an id":
        config["sequence"]["tasks"][0]["env"] = "evil:Corridor-v0"
    elif how == "an id inside an argument":
        config["sequence"]["tasks"][0] |= {"env": "isorl/Shifted-v0", "kwargs": {"env": "evil:Corridor"}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    on_path = isorl(run, "resume", ".", PYTHONPATH=str(run))
    here = subprocess.run(
        [sys.executable, "-m", "isorl", "play", "."], cwd=run, capture_output=True, text=True, check=False
    )
    for answer in (on_path, here):
        assert answer.returncode == 2, answer.stderr
        assert "evil" in answer.stderr
        assert "Traceback" not in answer.stderr
    assert not (run / "ran").exists()


PLAIN = """from isorl.plasticity.methods import METHODS, Method

@METHODS.register("plain")
class Plain(Method):
    def __init__(self, strength=1.0):
        self.strength = strength
"""
MISTAKES = {
    "no such file": (["imports=[./coridor.py]"], "there is no file"),
    "no such module": (["imports=[coridor]"], "there is no module 'coridor'"),
    "a method that is no dataclass": (["imports=[./plain.py]", "method=[plain]"], "is no dataclass"),
    "a module that raises": (["imports=[agents]"], "RuntimeError"),
    "another module's name": (["imports=[./json.py]"], "would take the name"),
    "unknown option": (
        ["imports=[corridor]", "method=[bounded_weights]", "method.bounded_weights.bond=1"],
        "bound'?",
    ),
    "unknown method": (["imports=[corridor]", "method=[bounded_weihts]"], "Did you mean 'bounded_weights'?"),
    "unknown own sequence": (["--config-dir", "configs", "sequence=coridor_turns"], "'corridor_turns'?"),
    "unknown own sequence in a grid": (
        ["-m", "--config-dir=configs", "sequence=coridor_turns"],
        "'corridor_turns'?",
    ),
    "tabs in a file": (["--config-dir", "configs", "sequence=tabs"], 'tabs.yaml", line 3, column 1'),
    "no such folder": (["--config-dir", "confgs", "seed=1"], "there is no folder 'confgs'"),
    "one name twice": (["--config-dir", "clash", "sequence=cartpole"], "Rename yours"),
}
OFTEN = ("no such file", "unknown own sequence in a grid", "one name twice")
"""Those that are tried with every other test; each starts a process."""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(*case, id=kind, marks=[pytest.mark.slow] * (kind not in OFTEN))
        for kind, case in MISTAKES.items()
    ],
)
def test_mistakes_are_answered(project, words, expected):
    (project / "json.py").touch()
    (project / "plain.py").write_text(PLAIN)
    (project / "configs" / "sequence" / "tabs.yaml").write_text("name: tabs\ntasks:\n\t- env: CartPole-v1\n")
    (project / "clash" / "sequence").mkdir(parents=True, exist_ok=True)
    (project / "clash" / "sequence" / "cartpole.yaml").write_text("name: mine\n")
    answer = isorl(project, "train", *words)
    assert answer.returncode == 2, answer.stderr
    assert answer.stderr.startswith("isorl train: ")
    assert expected in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.slow
def test_lists_name_what_is_registered(project):
    methods = isorl(project, "list", "methods", "imports=[./corridor.py]").stdout
    assert "bounded_weights" in methods
    assert "shrink_and_perturb" in methods
    assert "corridor_turns" in isorl(project, "list", "sequences", "--config-dir", "configs").stdout
    assert "weight_max" in isorl(project, "list", "metrics", "imports=[./corridor.py]").stdout
    assert "runs/grids" in isorl(project, "list", "grids").stderr + isorl(project, "list", "grids").stdout


def test_what_a_run_folder_names_is_looked_for_without_the_current_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(imports, "_current_folder", [str(tmp_path)])
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with imports._without_current_folder():
        assert str(tmp_path) not in sys.path
    assert sys.path[0] == str(tmp_path)
