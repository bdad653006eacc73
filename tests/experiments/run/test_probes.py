from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest

from isorl.configs import SequenceConfig, TaskConfig
from isorl.envs import Sequence
from isorl.envs.switching import common_spaces
from isorl.experiments.run import probes
from isorl.experiments.run.probes import collect_probe, load_or_collect


@pytest.fixture
def sequence():
    tasks = [
        TaskConfig(env="CartPole-v1", agent_steps=100),
        TaskConfig(env="isorl/NineRooms-v0", agent_steps=100, kwargs={"goal_seed": "task_seed"}),
    ]
    return [Sequence.from_config(SequenceConfig(name="x", tasks=[task]), seed=0) for task in tasks]


def test_probe_has_different_observations_and_repeats(sequence):
    for one in sequence:
        common = common_spaces(one)
        probe = collect_probe(one.tasks[0], common, size=16, seed=3)
        assert probe.shape == (16, *common.observation.shape)
        assert len(np.unique(probe, axis=0)) == 16
        np.testing.assert_array_equal(probe, collect_probe(one.tasks[0], common, size=16, seed=3))
        assert not np.array_equal(probe, collect_probe(one.tasks[0], common, size=16, seed=4))


def test_probe_is_read_back_from_its_file(sequence, tmp_path):
    one = sequence[0]
    made = load_or_collect(tmp_path / "probes.npz", one, common_spaces(one), size=8, seed=0)
    read = load_or_collect(tmp_path / "probes.npz", one, common_spaces(one), size=8, seed=99)
    np.testing.assert_array_equal(made[0], read[0])


def test_environments_are_seeded_by_31_bits(monkeypatch):
    """Gymnasium takes any size, some games do not."""
    seeds = []

    class Seeded:
        action_space = gymnasium.spaces.Discrete(2)

        def reset(self, seed):
            seeds.append(seed)
            return np.arange(4.0)[:, None]

        def close(self):
            pass

    monkeypatch.setattr(probes, "TaskEnv", lambda *given, **more: Seeded())
    for seed in range(8):
        assert len(probes.collect_probe(SimpleNamespace(index=0), None, 4, seed)) == 4
    assert len(set(seeds)) == 8
    assert max(seeds) < 2**31
