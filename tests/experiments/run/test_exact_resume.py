"""A run that was interrupted and resumed ends bit for bit as one that was not."""

import json
import os
import signal

import gymnasium
import pytest
from gymnasium.envs.classic_control import CartPoleEnv

from isorl.configs.errors import Interrupted
from isorl.envs import Sequence
from isorl.experiments.run import experiment
from isorl.experiments.run.callback import RunCallback
from tests.faults.compare import differences

QUIET = ["diagnostics.every=0", "evaluation.episodes=0", "log_every=500", "checkpoint.every=100000"]
CASES = {
    "ppo-nine_rooms": ["sequence=nine_rooms-smoke"],
    "dqn-rain": ["sequence=rain_permuted-smoke", "agent=dqn"],
    "classifier-adaptive": ["sequence=digits_random_labels-smoke", "agent=classifier", "method=[adaptive_isometry]",
                            "method.adaptive_isometry.every=4", "method.adaptive_isometry.decline=1.02",
                            "method.adaptive_isometry.recovery=1.01", "method.adaptive_isometry.index=dormant_units"],
    "ppo-offset-normalised": ["sequence=control_offset-smoke", "sequence.tasks.0.episodes=150",
                              "normalize.observations=true", "normalize.rewards=true",
                              "normalize.statistics=per_task"],
    "ppo-rewards-normalised": ["sequence=cartpole-smoke", "normalize.rewards=true", "switch.normalizer=reset"],
    "dqn-lunar": ["sequence=lunar_physics-smoke", "agent=dqn", "sequence.tasks.0.agent_steps=1500"],
    "ppo-lunar-drift": ["sequence=lunar_drift-smoke", "agent.n_steps=128"],
    "ppo-mujoco": ["sequence=mujoco_cycle-smoke", "agent.n_steps=512", "agent.batch_size=512", "agent.n_epochs=1"],
    "ppo-compiled": ["sequence=nine_rooms-smoke", "agent.compile=true"],
    "ppo-atari": ["sequence=atari_switch-smoke", "agent.n_envs=2", "agent.n_epochs=1"],
}  # fmt: skip


FAST = (
    "ppo-nine_rooms",
    "dqn-rain",
    "classifier-adaptive",
    "ppo-offset-normalised",
)


@pytest.mark.parametrize(
    "case", [case if case in FAST else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler, of its own parts
def test_resumed_equals_uninterrupted(configured, tmp_path, monkeypatch, case):
    assert not _differences_of_halves(configured, tmp_path, monkeypatch, [*CASES[case], *QUIET])


class Upright(CartPoleEnv):
    """Calls an episode a success whose cart is right of the middle."""

    def step(self, action):
        *given, info = super().step(action)
        return *given, {**info, "is_success": bool(given[0][0] > 0)}


def test_the_success_rate_goes_on_after_a_resume(configured, tmp_path, monkeypatch):
    gymnasium.register("toy/Upright-v0", Upright)
    words = ["sequence=env", "env=toy/Upright-v0", "agent_steps=3_000", *QUIET]
    assert not _differences_of_halves(configured, tmp_path, monkeypatch, words)
    rows = map(json.loads, (tmp_path / "halves" / "metrics.jsonl").read_text().splitlines())
    rates = [row["value"] for row in rows if row["key"] == "rollout/success_rate"]
    assert 0 < rates[-1] < 1


def test_churn_is_measured_across_a_resume(configured, tmp_path, monkeypatch):
    """It compares with the weights at the last measurement, which may have been before the interruption."""
    metrics = "diagnostics.metrics=[churn_of_actions,churn_of_outputs,small_gradient_units]"
    words = ["sequence=nine_rooms-smoke", "diagnostics.every=256", metrics, *QUIET[1:]]
    assert not _differences_of_halves(configured, tmp_path, monkeypatch, words)
    keys = {
        json.loads(line)["key"] for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    }
    assert {f"plasticity/churn_of_outputs/{network}" for network in ("actor", "critic")} <= keys
    assert "plasticity/churn_of_actions/critic" not in keys  # it has one output


LONGER = {
    "ppo-nine_rooms": ["sequence=nine_rooms-smoke", "method=[redo,shrink_and_perturb]", "network=relu"],
    "ppo-normalised": ["sequence=nine_rooms-smoke", "sequence.order=shuffled", "normalize.observations=true",
                       "normalize.statistics=per_task"],
    "dqn-rain": ["sequence=rain_permuted-smoke", "agent=dqn", "switch.replay=keep"],
    "classifier": ["agent=classifier", "sequence=digits_permuted-smoke", "optimizer=adam"],
    "episode_end": ["sequence=cartpole-smoke", "sequence.switch=episode_end"],
}  # fmt: skip


@pytest.mark.parametrize(
    "case",
    [case if case == "ppo-nine_rooms" else pytest.param(case, marks=pytest.mark.slow) for case in LONGER],
)
def test_a_finished_run_goes_on_as_if_planned_longer(configured, tmp_path, case):
    """Evaluations and diagnostics of the end that was not one are made anew, too."""
    words = [*LONGER[case], "log_every=500", "diagnostics.every=1500"]
    first, last = (
        configured(*words, f"sequence.cycles={cycles}", f"run_dir={tmp_path / name}")
        for cycles, name in ((1, "grown"), (3, "whole"))
    )
    experiment.start(first), experiment.start(last)
    steps = experiment.resume(str(tmp_path / "grown"), cycles=3)["agent_steps"]
    assert steps == 3 * Sequence.from_config(first.sequence, 0, first.agent.get("n_envs", 1)).agent_steps
    assert not differences(tmp_path / "whole", tmp_path / "grown")
    config, facts = (tmp_path / "grown" / name for name in ("config.yaml", "run.json"))
    assert "cycles: 3" in config.read_text()
    assert "lengthened" in json.loads(facts.read_text())


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:You are trying to run PPO on the GPU")
@pytest.mark.parametrize("case", ["ppo-nine_rooms", "dqn-rain"])
def test_resumed_on_cuda_equals_uninterrupted(configured, tmp_path, monkeypatch, case):
    """Products of matrices are computed there in one order; sums within convolutions are not."""
    words = [*CASES[case], *QUIET, "device=cuda"]
    assert not _differences_of_halves(configured, tmp_path, monkeypatch, words)


def _differences_of_halves(configured, tmp_path, monkeypatch, words):
    """Between a run and one like it that was interrupted and resumed."""
    experiment.start(configured(*words, f"run_dir={tmp_path / 'whole'}"))
    on_step, sent = RunCallback._on_step, []

    def interrupting(self):
        if self.model.num_timesteps >= 0.6 * self.sequence.agent_steps and not sent:
            sent.append(True)
            os.kill(os.getpid(), signal.SIGINT)
        return on_step(self)

    monkeypatch.setattr(RunCallback, "_on_step", interrupting)
    with pytest.raises(Interrupted):
        experiment.start(configured(*words, f"run_dir={tmp_path / 'halves'}"))
    experiment.resume(str(tmp_path / "halves"))

    return differences(tmp_path / "whole", tmp_path / "halves")
