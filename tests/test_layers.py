"""Who may import whom: configs <- plasticity, envs <- agents <- train.py; plasticity needs torch alone."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "configs": {"configs"},
    "plasticity": {"plasticity"},
    "envs": {"configs", "envs"},
    "agents": {"agents", "configs", "envs", "plasticity"},
}
LEARNERS = ("continual.py", "ppo.py", "dqn.py", "classifier.py", "policies.py")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the direction"
            found.add(node.module)
    return found


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_downwards(package):
    for path in (ROOT / package).rglob("*.py"):
        ours = {name.split(".")[0] for name in imports_of(path)} & (set(ALLOWED) | {"train", "tests"})
        assert ours <= ALLOWED[package], f"{path} imports {ours - ALLOWED[package]}"


def test_plasticity_depends_on_torch_alone():
    for path in (ROOT / "plasticity").rglob("*.py"):
        names = {name.split(".")[0] for name in imports_of(path)}
        assert not names & {"stable_baselines3", "gymnasium", "hydra", "omegaconf", "scipy", "rich"}, path


@pytest.mark.parametrize("name", LEARNERS)
def test_learners_are_handed_their_environment(name):
    assert not {module for module in imports_of(ROOT / "agents" / name) if module.split(".")[0] == "envs"}


def test_command_line_imports_torch_only_when_something_runs():
    """`--help` answers at once."""
    for path in (ROOT / "configs").rglob("*.py"):
        assert not imports_of(path) & {"torch", "stable_baselines3"}
