"""The wheel, in a fresh environment and in a folder whose names clash with those of this repository."""

import shutil
import subprocess
import sys
import textwrap
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("isorl", "agents", "configs", "envs", "experiments", "plasticity")


def test_plasticity_needs_torch_and_numpy_alone(tmp_path):
    """Python sees its own library, torch with what torch needs, numpy, and of this project plasticity/ alone."""
    (tmp_path / "isorl").mkdir()
    (tmp_path / "isorl" / "__init__.py").symlink_to(ROOT / "isorl" / "__init__.py")
    (tmp_path / "isorl" / "plasticity").symlink_to(ROOT / "plasticity")
    for place in (Path(entry) for entry in sys.path if Path(entry).name == "site-packages"):
        for found in (path for name in (*TORCH, "numpy") for path in place.glob(f"{name}*")):
            if not (tmp_path / found.name).exists():
                (tmp_path / found.name).symlink_to(found)
    start = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    _python(sys.executable, start + textwrap.dedent(SCIENCE), isolated=True)


TORCH = ("torch", "typing_extensions", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "fsspec", "filelock",
         "nvidia", "triton")  # fmt: skip
SCIENCE = """
    import torch
    from isorl.plasticity import AdamO, NetworkSpec, build_mlp, parameter_groups, report
    from isorl.plasticity.methods import METHODS

    body = build_mlp(4, NetworkSpec(widths=(8, 8), activation="maxmin", isometry="soft"))
    net = torch.nn.Sequential(body, torch.nn.Linear(8, 2))
    optimizer = AdamO(parameter_groups(net))
    net(torch.randn(3, 4)).square().mean().backward()
    optimizer.step()
    print(report(net, torch.randn(16, 4)))
    assert "redo" in METHODS
    try:
        import gymnasium
    except ImportError:
        pass
    else:
        raise AssertionError("this environment shows more than it should")
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of a fresh environment with the wheel; heavy packages are taken from this environment."""
    folder = tmp_path_factory.mktemp("fresh")
    source = folder / "source"  # building writes beside the sources
    for room in ROOMS:
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source]
    subprocess.run(wheel, check=True, capture_output=True)
    venv.create(folder / "venv", with_pip=True)
    (purelib,) = (folder / "venv").glob("lib/python*/site-packages")
    (built,) = folder.glob("*.whl")
    install = [folder / "venv/bin/python", "-m", "pip", "install", "--no-deps", "--no-index", built]
    subprocess.run(install, check=True, capture_output=True)
    theirs = [entry for entry in sys.path if Path(entry).name == "site-packages"]
    (purelib / "heavy.pth").write_text(
        "\n".join(theirs)
    )  # .pth files of theirs are not read: no editable isorl
    return folder / "venv" / "bin" / "python"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with folders agents/, envs/ and configs/ of its own."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "examples" / "own_project", folder, dirs_exist_ok=True)
    for room in ("agents", "envs", "experiments", "plasticity"):
        (folder / room).mkdir()
        (folder / room / "__init__.py").write_text("raise RuntimeError('another project')\n")
    (folder / "configs" / "__init__.py").write_text("raise RuntimeError('another project')\n")
    return folder


def _python(python, program: str, isolated: bool = False, **options) -> str:
    answer = subprocess.run(
        [python, *(["-I", "-S"] if isolated else []), "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        **options,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def _isorl(python, project, *words: str, code: int = 0) -> str:
    answer = subprocess.run(
        [python.with_name("isorl"), *words],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert answer.returncode == code, answer.stderr
    return answer.stdout + " ".join(answer.stderr.split())


@pytest.mark.slow
def test_the_wheel_does_everything_in_a_folder_with_clashing_names(python, project):
    place = _python(
        python, "import isorl.agents; print(isorl.agents.__file__, isorl.__version__)", cwd=project
    )
    assert str(python.parent.parent) in place
    assert str(ROOT) not in place
    _python(python, LOOP, cwd=project)
    _python(python, CALLBACK, cwd=project)

    assert "bounded_weights" in _isorl(python, project, "list", "methods", "imports=[./corridor.py]")
    words = ["imports=[./corridor.py]", "--config-dir", "configs", "sequence=corridor_turns", "network=small_tanh",
             "method=[bounded_weights]", "diagnostics.metrics=[weight_max]", "device=cpu"]  # fmt: skip
    said = _isorl(python, project, "train", *words, "run_dir=runs/one")
    assert "right" in said
    assert "Did you mean 'sequence'?" in _isorl(python, project, "train", *words[:-1], "sequenc=x", code=2)
    grid = ["-m", *words, "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "together=1"]
    assert "2 of 2 cells are finished" in _isorl(python, project, "train", *grid)

    said = _isorl(python, project, "resume", "runs/one", "imports=[./corridor.py]", code=2)
    assert "is finished" in said
    assert "isorl resume: 'runs/one' imports 'corridor'" in _isorl(
        python, project, "resume", "runs/one", code=2
    )
    assert "task0-left" in _isorl(python, project, "play", "runs/one", "imports=[./corridor.py]")
    (folder,) = (project / "runs" / "grids").iterdir()
    assert "report.html" in _isorl(python, project, "report", str(folder))
    assert "== actor ==" in _isorl(python, project, "inspect", "runs/one", "imports=[./corridor.py]")
    assert "left" in _python(python, LOAD, cwd=project)


@pytest.mark.slow
def test_an_interrupted_run_is_continued_as_it_says(python, project):
    task = "sequence.tasks=[{env: 'corridor:Corridor-v0', agent_steps: 40000}]"
    words = ["train", "sequence=cartpole-smoke", task, "device=cpu", "run_dir=runs/two"]
    started = subprocess.Popen(
        [python.with_name("isorl"), *words],
        cwd=project,
        stderr=subprocess.PIPE,
        text=True,
        stdout=subprocess.DEVNULL,
    )
    metrics = project / "runs" / "two" / "metrics.jsonl"
    while not metrics.exists() or not metrics.stat().st_size:
        assert started.poll() is None, started.stderr.read()
    started.send_signal(2)
    said = " ".join(started.communicate(timeout=120)[1].split())
    assert "Continue with: isorl resume runs/two" in said
    assert "visit" in _isorl(python, project, "resume", "runs/two", "imports=[corridor]")


LOOP = """
    import torch
    from isorl.plasticity import AdamO, NetworkSpec, build_mlp, parameter_groups

    body = build_mlp(4, NetworkSpec(widths=(16, 16), activation="maxmin", isometry="soft"))
    net = torch.nn.Sequential(body, torch.nn.Linear(16, 2))
    optimizer = AdamO(parameter_groups(net), lr=1e-2)
    x, y = torch.randn(64, 4), torch.randn(64, 2)
    losses = []
    for _ in range(50):
        loss = (net(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
"""
CALLBACK = """
    from stable_baselines3 import SAC
    from isorl.agents import PlasticityCallback

    model = SAC("MlpPolicy", "Pendulum-v1", learning_starts=50, tensorboard_log="logs")
    model.learn(300, callback=PlasticityCallback(every=100))
    from pathlib import Path
    assert any(Path("logs").rglob("events.*"))
"""
LOAD = """
    import isorl

    run = isorl.load("runs/one", imports=["corridor.py"])
    observations = run.env.reset()
    for _ in range(20):
        actions, _ = run.model.predict(observations)
        observations, *_ = run.env.step(actions)
    print([task.name for task in run.sequence.tasks], run.model.policy.networks().keys())
    assert len(isorl.results("runs").runs) == 3
"""
