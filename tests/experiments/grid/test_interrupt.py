"""Ctrl-C ends a grid on all cores of this machine: it goes to every process of the terminal, helpers included."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SECONDS = 60


@pytest.mark.parametrize("presses", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_an_interrupted_grid_ends_and_says_how_to_go_on(presses, tmp_path):
    words = ["seed=0,1", "together=1", "hydra/launcher=here", "hydra.launcher.n_jobs=2", "device=cpu"]
    long = ["sequence=nine_rooms-smoke", "sequence.tasks.0.agent_steps=100_000_000", "log_every=200"]
    process = subprocess.Popen(
        [sys.executable, "train.py", "-m", *words, *long, f"hydra.sweep.dir={tmp_path}"],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        _wait(lambda: len(list(tmp_path.rglob("events.out.tfevents.*"))) == 2, process)
        for _ in range(presses):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.005)  # a finger, or what a busy machine makes of one signal to each and one to all
        said, _ = process.communicate(timeout=SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    # a worker that is asked twice stops at once and may say where it was; what must not die is joblib's own thread
    assert "ExecutorManagerThread" not in said, said
    assert "Give the same command again to go on" in said
    assert process.returncode == 130


def _wait(until, process):
    end = time.monotonic() + SECONDS
    while not until():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.1)
