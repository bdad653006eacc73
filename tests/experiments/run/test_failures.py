"""Bad numbers and bad environments: named, or skipped and counted; what was good stays."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from isorl.agents.batched.optimizer import RowOptimizer
from isorl.configs import SequenceConfig, TaskConfig
from isorl.configs.schema import FaultsConfig
from isorl.envs import Sequence, SwitchingVecEnv
from isorl.envs.failures import EnvironmentFailed, Failures
from isorl.experiments.run import experiment
from isorl.experiments.run.divergence import NotFinite

CASES = {"raises": "copy 0: OSError: the cable", "reset": "copy 0: OSError: the plug",
         "shape": r"shape \(3,\)", "reward": "copy 0 gave a reward", "observation": "copy 0 gave an observation",
         "last": "a last observation",
         "first shape": r"copy 0: ValueError: the observation has shape \(3,\)"}  # fmt: skip
RESET = ("reset", "first shape")


class Bad(gymnasium.Env):
    """Does what `wrong` says in step 5 of every episode, and ends episodes in step 8.

    An episode ends in step 5 where its last observation is wrong, or the reset after it.
    """

    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Discrete(2)

    def __init__(self, wrong=""):
        self.wrong, self.step_number = wrong, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.step_number = 0
        wrong = self.wrong if seed is None else ""
        if wrong == "reset":
            raise OSError("the plug")
        return self.np_random.uniform(-1, 1, 3 if wrong == "first shape" else 2).astype(np.float32), {}

    def step(self, action):
        self.step_number += 1
        wrong = self.wrong if self.step_number == 5 else ""
        if wrong == "raises":
            raise OSError("the cable\nwas pulled")
        observation = self.np_random.uniform(-1, 1, 3 if wrong == "shape" else 2).astype(np.float32)
        if wrong in ("observation", "last"):
            observation[1] = np.nan
        reward = float("inf") if wrong == "reward" else 1.0
        return observation, reward, wrong in ("last", *RESET), self.step_number == 8, {}


gymnasium.register("test/Bad-v0", Bad, disable_env_checker=True, order_enforce=False)


def env_of(wrong, **faults):
    task = TaskConfig("test/Bad-v0", agent_steps=1000, kwargs={"wrong": wrong})
    sequence = Sequence.from_config(SequenceConfig("test", [task]), 0, 2)
    return SwitchingVecEnv(sequence, 2, 7, failures=Failures(FaultsConfig(**faults)))


def steps(env, count):
    env.reset()
    return [env.step(np.zeros(2, dtype=np.int64)) for _ in range(count)]


@pytest.mark.parametrize("wrong", CASES)
def test_who_and_what_is_named(wrong):
    env = env_of(wrong)
    with pytest.raises(EnvironmentFailed, match=f"(?s)Task .*Bad-v0.*{CASES[wrong]}"):
        steps(env, 5)


@pytest.mark.parametrize("wrong", ["raises", "shape", *RESET])
def test_failed_copies_are_made_anew_and_their_episodes_not_reported(wrong):
    env = env_of(wrong, environment="restart")
    results = steps(env, 12)
    assert env.failures.counts == {"restarts": 4}
    *_, dones, infos = results[4]
    assert dones.all()
    assert all(info["TimeLimit.truncated"] and "episode" not in info for info in infos)
    np.testing.assert_array_equal(infos[0]["terminal_observation"], results[3][0][0])
    assert not results[5][2].any()


@pytest.mark.parametrize("wrong", ["raises", "reset"])
def test_restarts_are_resumed_exactly(wrong):
    env, restored = (env_of(wrong, environment="restart") for _ in range(2))
    steps(env, 7)
    restored.load_state_dict(env.state_dict())
    for _ in range(10):
        one, other = (each.step(np.zeros(2, dtype=np.int64)) for each in (env, restored))
        np.testing.assert_array_equal(one[0], other[0])
    assert env.failures.counts == restored.failures.counts == {"restarts": 6}


@pytest.mark.parametrize("wrong", ["reward", "observation", "last"])
def test_numbers_become_zero_and_are_counted(wrong):
    env = env_of(wrong, numbers="skip")
    results = steps(env, 5)
    assert env.failures.counts == {"numbers": 2}
    observations, rewards, _, infos = results[-1]
    value = {"reward": rewards[0], "observation": observations[0, 1]}.get(wrong)
    assert value == 0 if value is not None else infos[0]["terminal_observation"][1] == 0


def diverge(monkeypatch, at):
    """From update `at` on for one update, the gradients are NaN."""
    step, step_of_all = torch.optim.Adam.step, RowOptimizer.adam_step
    calls = []

    def poisoned(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == at:
            self.param_groups[0]["params"][0].grad.fill_(float("nan"))
        return step(self, *args, **kwargs)

    def poisoned_together(self):
        calls.append(1)
        if len(calls) == at:
            self._gradients.fill_(float("nan"))
        step_of_all(self)

    monkeypatch.setattr(torch.optim.Adam, "step", poisoned)
    monkeypatch.setattr(RowOptimizer, "adam_step", poisoned_together)
    return calls


WORDS = ("sequence=nine_rooms-smoke", "network=relu", "optimizer=adam", "diagnostics.every=0",
         "evaluation.episodes=0", "log_every=100")  # fmt: skip


@pytest.mark.parametrize(("agent", "at"), [("ppo", 500), ("dqn", 90)])
def test_diverged_weights_end_the_run_and_are_never_saved(configured, tmp_path, monkeypatch, agent, at):
    diverge(monkeypatch, at)
    with pytest.raises(
        NotFinite, match=r"weights '.*' are not finite at agent step .*; at .* all were"
    ) as stopped:
        experiment.start(
            configured(*WORDS, f"agent={agent}", "checkpoint.every=256", f"run_dir={tmp_path / 'run'}")
        )
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert saved["counters"]["num_timesteps"] == stopped.value.saved_at > 0
    assert all(torch.isfinite(value).all() for value in saved["policy"].values())


def test_updates_with_bad_gradients_are_skipped_and_counted(configured, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    real = torch.nn.utils.clip_grad_norm_
    calls = []

    def poisoned(parameters, *args, **kwargs):
        parameters = list(parameters)
        norm = real(parameters, *args, **kwargs)
        calls.append(1)
        if len(calls) == 90:
            parameters[0].grad.fill_(float("nan"))
        return norm

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", poisoned)
    experiment.start(configured(*WORDS, "faults.numbers=skip", f"run_dir={folder}"))
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert saved["environment"]["failures"] == {"updates": 1}
    assert '"faults/updates", "value": 1' in (folder / "metrics.jsonl").read_text()
    assert all(torch.isfinite(value).all() for value in saved["policy"].values())
