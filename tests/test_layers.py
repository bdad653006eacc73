"""Who may import whom, and that the packages which are installed are the folders that are there."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "configs": {"configs"},
    "plasticity": {"plasticity"},
    "envs": {"configs", "envs", "plasticity"},
    "agents": {"agents", "configs", "envs", "plasticity"},
    "experiments": {"agents", "configs", "envs", "experiments", "plasticity"},
}
"""Room -> the rooms that it may import from: configs and plasticity <- envs <- agents <- experiments."""
LEARNERS = ("continual.py", "ppo.py", "dqn.py", "classifier.py", "policies.py")


def imports_of(path: Path) -> set[str]:
    """The modules that a file imports, those of this project without the namespace."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the direction"
            found |= (
                {node.module} if node.module != "isorl" else {f"isorl.{alias.name}" for alias in node.names}
            )
    return {name.removeprefix("isorl.") if name.startswith("isorl.") else f"/{name}" for name in found}


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_downwards(package):
    for path in (ROOT / package).rglob("*.py"):
        names = imports_of(path)
        ours = {name.split(".")[0] for name in names if not name.startswith("/")}
        assert ours <= ALLOWED[package], f"{path} imports {ours - ALLOWED[package]}"
        assert not {name.split(".")[0] for name in names} & {"/train", "/tests", "/benchmarks", "/docs"}, path


def test_plasticity_depends_on_torch_and_numpy_alone():
    for path in (ROOT / "plasticity").rglob("*.py"):
        names = {name.split(".")[0].removeprefix("/") for name in imports_of(path)}
        if path.name == "hessian.py":  # Lanczos, imported where it is called
            names.discard("scipy")
        assert not names & {"stable_baselines3", "gymnasium", "hydra", "omegaconf", "scipy", "rich"}, path


@pytest.mark.parametrize("name", LEARNERS)
def test_learners_are_handed_their_environment(name):
    assert not {module for module in imports_of(ROOT / "agents" / name) if module.split(".")[0] == "envs"}


def test_command_line_imports_torch_only_when_something_runs():
    """`--help` answers at once."""
    for path in (ROOT / "configs").rglob("*.py"):
        assert not imports_of(path) & {"/torch", "/stable_baselines3"}


def test_every_folder_with_code_is_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent for room in ("isorl", *ALLOWED) for path in (ROOT / room).rglob("*.py")}
    there = {str(folder.relative_to(ROOT)) for folder in folders}
    assert set(settings["package-dir"].values()) == there
    assert set(settings["packages"]) == set(settings["package-dir"])
    for package, folder in settings["package-dir"].items():
        assert package == ("isorl" if folder == "isorl" else "isorl." + folder.replace("/", "."))
