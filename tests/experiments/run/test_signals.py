"""A run that is asked to stop while it is busy stops all the same, and resumes to the same end."""

import itertools
import os
import signal
import threading
import time

import pytest
from gymnasium.envs.classic_control import MountainCarEnv

from isorl.configs.errors import STOP_SIGNALS, Interrupted
from isorl.experiments.run import experiment, stopping
from isorl.experiments.run.evaluation import Evaluator
from tests.faults.compare import differences

WORDS = ("sequence=nine_rooms-smoke", "network=relu", "optimizer=adam", "log_every=300", "diagnostics.every=0",
         "checkpoint.every=1000", "evaluation.episodes=1", "agent=dqn")  # fmt: skip


def signals_in_an_evaluation(monkeypatch, number, again=False):
    """The first evaluation is endless, and the run is asked to stop in it."""
    real = Evaluator.mean_return

    def endless(self, agent, task):
        monkeypatch.setattr(Evaluator, "mean_return", real)
        os.kill(os.getpid(), number)
        if again:
            os.kill(os.getpid(), number)
        while True:
            time.sleep(0.01)

    monkeypatch.setattr(Evaluator, "mean_return", endless)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_long_evaluation_does_not_keep_a_run_from_stopping(configured, tmp_path, monkeypatch, number):
    experiment.start(configured(*WORDS, f"run_dir={tmp_path / 'whole'}"))
    monkeypatch.setattr(stopping, "GRACE", 0.5)
    signals_in_an_evaluation(monkeypatch, number)
    with pytest.raises(Interrupted) as stopped:
        experiment.start(configured(*WORDS, f"run_dir={tmp_path / 'parts'}"))
    assert stopped.value.exit_code == 128 + number
    assert str(stopped.value) == f"Stopped by {signal.Signals(number).name}."
    assert 1000 <= stopped.value.saved_at < 2048
    experiment.resume(str(tmp_path / "parts"))
    assert not differences(tmp_path / "whole", tmp_path / "parts")
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_environment_that_hangs_when_a_run_is_stopped_has_not_failed(configured, tmp_path, monkeypatch):
    """Its step is left where it is."""
    monkeypatch.setattr(stopping, "GRACE", 0.5)
    step, calls = MountainCarEnv.step, itertools.count()

    def hangs(self, action):
        if stopping.StopRequest._listening and next(calls) == 300:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1000)
        return step(self, action)

    monkeypatch.setattr(MountainCarEnv, "step", hangs)
    words = [word for word in WORDS if not word.startswith("sequence=")]
    with pytest.raises(Interrupted) as stopped:
        experiment.start(
            configured(
                *words,
                "sequence=cartpole-smoke",
                "sequence.tasks=[{env:MountainCar-v0,agent_steps:600}]",
                f"run_dir={tmp_path / 'run'}",
            )
        )
    assert stopped.value.exit_code == 143


def test_asked_twice_it_stops_at_once(configured, tmp_path, monkeypatch):
    before = set(threading.enumerate())  # other tests may have left some
    monkeypatch.setattr(stopping, "GRACE", 1000)
    signals_in_an_evaluation(monkeypatch, signal.SIGINT, again=True)
    with pytest.raises(Interrupted) as stopped:
        experiment.start(configured(*WORDS, f"run_dir={tmp_path / 'run'}"))
    assert not stopped.value.saves
    assert set(threading.enumerate()) <= before
