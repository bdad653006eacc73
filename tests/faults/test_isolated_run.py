"""A run whose environment hangs or dies in a process of its own: it ends with one message, and nothing is lost."""

import os
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from isorl.envs.failures import EnvironmentFailed
from isorl.experiments.run import experiment
from tests.faults.compare import differences
from tests.faults.runs import configured


class Once(gymnasium.Env):
    """Hangs or exits once, in the seventh episode of the copy of seed 1, if a file says so."""

    observation_space = spaces.Box(0, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, mark=""):
        self.mark, self.episodes, self.mine, self.number = Path(mark), 0, False, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.mine = seed == 1 if seed is not None else self.mine
        self.episodes, self.number = self.episodes + 1, 0
        return self.np_random.random(2, np.float32), {}

    def step(self, action):
        self.number += 1
        if self.mine and self.episodes == 7 and self.mark.exists():
            wish = self.mark.read_text()
            self.mark.unlink()
            time.sleep(1000) if wish == "hang" else os._exit(3)
        return self.np_random.random(2, np.float32), float(action), self.number == 40, False, {}


gymnasium.register("test/Once-v0", Once, disable_env_checker=True, order_enforce=False)


def config_of(folder, mark, *words):
    task = f"[{{env:test/Once-v0,agent_steps:800,kwargs:{{mark:'{mark}'}}}}]"
    return configured([f"sequence.tasks={task}", "sequence=nine_rooms-smoke", "network=relu", "optimizer=adam",
                       "evaluation.episodes=0", "diagnostics.every=0", "agent.n_envs=2", "agent.n_steps=64",
                       "agent.n_epochs=1", "agent.batch_size=64", "++sequence.cycles=1", "faults.isolate=true",
                       "faults.step_seconds=1", "checkpoint.every=300", *words], folder)  # fmt: skip


@pytest.mark.slow
def test_it_is_named_and_the_resumed_run_ends_as_one_left_alone(tmp_path):
    mark = tmp_path / "mark"
    experiment.start(config_of(tmp_path / "whole", mark))
    mark.write_text("hang")
    with pytest.raises(EnvironmentFailed) as failed:
        experiment.start(config_of(tmp_path / "parts", mark))
    assert str(failed.value) == "Task 'Once-v0' (test/Once-v0): copy 1: no answer within 1 s"
    assert failed.value.exit_code == 1
    assert 0 < failed.value.saved_at < 560
    experiment.resume(str(tmp_path / "parts"))
    assert not differences(tmp_path / "whole", tmp_path / "parts")


def test_restarted_it_comes_to_its_end(tmp_path):
    mark = tmp_path / "mark"
    mark.write_text("exit")
    experiment.start(config_of(tmp_path / "run", mark, "faults.environment=restart"))
    assert not mark.exists()
    assert '"faults/restarts", "value": 1' in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "made anew: copy 1: its process ended" in (tmp_path / "run" / "run.log").read_text()
