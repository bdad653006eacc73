"""A real Ray cluster of two nodes on this machine, one CPU each; `make cluster` runs it."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).parents[3]
BENCHMARK = """# @package benchmark
name: cluster
about: two packs of two cells, of about half a minute
arms:
  Adam: [network=relu, optimizer=adam]
  AEI: [network=aei, optimizer=adamo]
sequences:
  catch: [agent=ppo, sequence=catch_permuted-smoke, "sequence.tasks.0.agent_steps=61_440"]
seeds: [0, 1]
references: []
words: [diagnostics.every=10_000, evaluation.episodes=2, device=cpu, checkpoint.every=2_000]
"""


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    folder = tmp_path_factory.mktemp("config")
    (folder / "benchmark").mkdir()
    (folder / "benchmark" / "cluster.yaml").write_text(BENCHMARK)
    return folder


def command(config: Path, runs: Path, *words: str) -> list[str]:
    start = [sys.executable, "train.py", "--config-dir", str(config), "-m", "+benchmark=cluster"]
    return [*start, f"hydra.sweep.dir={runs}", *words]


@pytest.fixture(scope="module")
def local(benchmark, tmp_path_factory):
    """The same cells without Ray."""
    runs = tmp_path_factory.mktemp("local")
    subprocess.run(command(benchmark, runs), cwd=ROOT, check=True, timeout=1200)
    return runs


class Cluster:
    """A head and a second node."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        port = self.address.split(":")[1]
        self.head = self.node("--head", f"--port={port}", "--include-dashboard=false")
        time.sleep(8)
        self.second = self.node(f"--address={self.address}")
        time.sleep(8)

    def node(self, *words: str) -> subprocess.Popen:
        ray = Path(sys.executable).parent / "ray"
        start = [str(ray), "start", "--num-cpus=1", "--block", "--object-store-memory=100000000", *words]
        return subprocess.Popen(start, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL)

    def stop(self) -> None:
        for node in (self.second, self.head):
            kill_with_children(node)


def kill_with_children(node: subprocess.Popen) -> None:
    """SIGKILL to every process of a node, as when its machine loses power."""
    if node.poll() is None:
        for victim in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        node.wait(timeout=30)


@pytest.fixture
def cluster():
    pytest.importorskip("ray", reason="needs the extra 'ray'")
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="needs hydra-ray-launcher")
    started = Cluster()
    yield started
    started.stop()


def launched(benchmark: Path, runs: Path, cluster: Cluster) -> subprocess.Popen:
    return subprocess.Popen(
        command(benchmark, runs, "hydra/launcher=ray_cluster"),
        cwd=ROOT,
        env={**os.environ, "RAY_ADDRESS": cluster.address},
        stderr=subprocess.PIPE,
        text=True,
    )


def cells(runs: Path) -> dict[str, Path]:
    return {path.parent.name: path.parent for path in runs.glob("cells/*/*/summary.json")}


def records(folder: Path) -> list[tuple]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        (row["key"], row["agent_step"], str(row["value"]))
        for row in rows
        if not row["key"].startswith("time/")
    ]


def assert_same(ours: Path, theirs: Path) -> None:
    """Weights, every record and every result, bit for bit."""
    assert cells(ours).keys() == cells(theirs).keys()
    assert cells(ours)
    for name, folder in cells(ours).items():
        other = cells(theirs)[name]
        assert sorted(records(folder)) == sorted(records(other)), name
        assert len(set(records(folder))) == len(records(folder)), f"{name}: a record was made twice"
        one, two = (torch.load(at / "checkpoint.pt", weights_only=True) for at in (folder, other))
        for key, value in one["policy"].items():
            assert torch.equal(value, two["policy"][key]), (name, key)
        one, two = (json.loads((at / "summary.json").read_text()) for at in (folder, other))
        assert one["returns"] == two["returns"]
        assert one["evaluation"] == two["evaluation"]


def started_from_scratch(folder: Path) -> int:
    return (folder / "run.log").read_text().count("visit 0 begins")


def test_two_nodes_compute_what_one_process_computes(benchmark, local, cluster, tmp_path):
    run = launched(benchmark, tmp_path, cluster)
    _, said = run.communicate(timeout=1200)
    assert run.returncode == 0, said
    assert_same(tmp_path, local)


def wait_for_checkpoints(runs: Path, count: int, seconds: float = 240) -> list[Path]:
    """Folders of `count` cells that run and have saved themselves at least once."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = [file.parent for file in runs.glob("cells/*/*/checkpoint.pt")]
        running = [folder for folder in found if not (folder / "summary.json").exists()]
        if len(running) >= count:
            return running
        time.sleep(0.2)
    raise TimeoutError(f"no {count} cells were running at one time")


def writer(folder: Path) -> int:
    return int((folder / ".lock").read_text().split()[1])


def test_killed_worker_and_killed_node_lose_no_cell(benchmark, local, cluster, tmp_path):
    run = launched(benchmark, tmp_path, cluster)
    victim = wait_for_checkpoints(tmp_path, 2)[0]
    os.kill(writer(victim), signal.SIGKILL)
    time.sleep(10)
    wait_for_checkpoints(tmp_path, 1)
    kill_with_children(cluster.second)
    _, said = run.communicate(timeout=1200)
    assert run.returncode == 0, said
    assert_same(tmp_path, local)
    assert all(started_from_scratch(folder) == 1 for folder in cells(tmp_path).values())
    again = launched(benchmark, tmp_path, cluster)
    _, said = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert "nothing, every cell is finished" in said


def test_workers_import_what_the_command_line_names(cluster, tmp_path):
    """An environment, a method and a network of the user's own, from a folder that is nobody's package."""
    project = tmp_path / "project"
    shutil.copytree(ROOT / "examples" / "own_project", project)
    grid = [sys.executable, "-m", "isorl", "train", "-m", "imports=[./corridor.py]", "--config-dir", "configs",
            "sequence=corridor_turns", "method=[weight_clipping]", "network=small_tanh", "seed=0,1", "together=1",
            "device=cpu"]  # fmt: skip
    for runs, where in (("local", []), ("ray", ["hydra/launcher=ray_cluster"])):
        env = {**os.environ, "RAY_ADDRESS": cluster.address}
        words = [*grid, f"hydra.sweep.dir={tmp_path / runs}", *where]
        run = subprocess.run(
            words, cwd=project, env=env, capture_output=True, text=True, timeout=600, check=False
        )
        assert run.returncode == 0, run.stderr
    assert len(cells(tmp_path / "ray")) == 2
    assert_same(tmp_path / "ray", tmp_path / "local")
