"""The classifier: equal to a plain torch loop, whole through SB3's interface, masked where it must be."""

import copy
import itertools

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from torch.nn import functional as F

from isorl.agents import ContinualClassifier, PlasticityCallback
from isorl.configs import UserError
from isorl.configs.schema import EvaluationConfig
from isorl.envs.data import folder, standardised
from isorl.experiments.run import experiment
from isorl.experiments.run.callback import RunCallback
from isorl.experiments.run.evaluation import Evaluator
from isorl.plasticity import AdamO

RANDOM = "sequence=digits_random_labels-smoke"


def plain_loop(classifier, env, batches, fused):
    """Prequential learning as one would write it: predict, see the labels, one Adam step."""
    optimizer = torch.optim.Adam(classifier.parameters(), lr=3e-3, eps=1e-8, fused=fused)
    x, answers = env.reset(), []
    for _ in range(batches):
        inputs = torch.as_tensor(x).flatten(1)
        logits = classifier(inputs)
        answers.append(logits.argmax(1))
        x, *_ = env.step(answers[-1].numpy())
        optimizer.zero_grad()
        F.cross_entropy(logits, torch.as_tensor(env.labels)).backward()
        optimizer.step()
    return torch.stack(answers)


@pytest.mark.parametrize(
    ("exact", "option"), list(itertools.product([True, False], ["null", "false", "true"]))
)
def test_it_is_a_plain_loop(parts, exact, option):
    """Bit for bit where it is exact, else within rounding; torch's fused kernel is for fast ones, or on demand."""
    fused = {"null": not exact, "false": False, "true": True}[option]
    words = RANDOM, "seed=5", f"optimizer.fused={option}", f"agent.exact={exact}"
    ours, theirs = (parts(*words) for _ in range(2))
    plain = copy.deepcopy(theirs.agent.policy.networks()["classifier"])
    plain_loop(plain, theirs.env, 64, fused)
    ours.agent.learn(64 * 64)
    learned = ours.agent.policy.networks()["classifier"].state_dict()
    tolerance = dict(rtol=0, atol=0) if exact else dict(rtol=1e-2, atol=1e-4)
    torch.testing.assert_close(learned, plain.state_dict(), **tolerance)
    assert ours.agent._n_updates == 64
    assert ours.agent.engine.name == ("torch" if exact else "batched")


def test_callbacks_are_called_as_stable_baselines3_calls_them(parts):
    called = []

    class Notes(BaseCallback):
        def _on_training_start(self):
            called.append("training")

        def _on_rollout_start(self):
            called.append("begin")

        def _on_step(self):
            called.append(self.num_timesteps)
            return self.num_timesteps < 192

        def _on_rollout_end(self):
            called.append("end")

        def _on_training_end(self):
            called.append("over")

    parts(RANDOM).agent.learn(10_000, callback=Notes())
    rollouts = [entry for steps in (64, 128, 192) for entry in ("begin", steps, "end")]
    assert called == ["training", *rollouts, "over"]


def test_adamo_without_strength_is_adam(parts):
    adam = parts(RANDOM)
    adamo = parts(RANDOM, "optimizer=adamo", "optimizer.iso_lambda=0")
    assert isinstance(adamo.agent.policy.optimizer, AdamO)
    for one in (adam, adamo):
        one.agent.learn(64 * 40)
    for a, b in zip(adam.agent.policy.parameters(), adamo.agent.policy.parameters(), strict=True):
        assert torch.equal(a, b)


def test_heads_and_biases_are_no_business_of_the_isometry(parts):
    policy = parts(RANDOM, "network=aei", "optimizer=adamo").agent.policy
    isometric = [p for group in policy.optimizer.param_groups if group["isometric"] for p in group["params"]]
    assert [tuple(p.shape) for p in isometric] == [(128, 64), (128, 128), (128, 128)]


def test_every_body_starts_orthogonal(parts):
    for network, gain in (("relu", 2**0.5), ("aei", 1.0)):
        policy = parts(RANDOM, f"network={network}").agent.policy
        sigma = torch.linalg.svdvals(policy.body[0].weight.detach())
        torch.testing.assert_close(sigma, torch.full_like(sigma, gain))


def test_save_load_predict(parts, tmp_path):
    agent = parts(RANDOM).agent.learn(64 * 20)
    agent.save(tmp_path / "agent.zip")
    loaded = ContinualClassifier.load(tmp_path / "agent.zip", env=agent.env, device="cpu")
    x = agent.env.reset()
    np.testing.assert_array_equal(agent.predict(x)[0], loaded.predict(x)[0])
    loaded.learn(64 * 4, reset_num_timesteps=False)
    assert loaded.num_timesteps == 64 * 24
    assert agent.predict(x)[0].shape == (64,)


def test_masked_heads_answer_and_learn_only_their_classes(parts):
    """With a masked head, the gradient of the other classes' outputs is exactly zero."""
    made = parts("sequence=digits_splits-masked", "sequence.cycles=1")
    agent = made.agent.learn(64 * 8)
    x = made.env.reset()
    assert set(agent.predict(x)[0].tolist()) <= {0, 1}
    assert not agent.policy.head.weight.grad[2:].any()
    assert agent.policy.head.weight.grad[:2].abs().sum() > 0
    agent.learn(64 * 64, reset_num_timesteps=False)  # into the second task
    assert agent.policy.allowed.nonzero().flatten().tolist() == [2, 3]
    assert set(agent.predict(made.env.reset())[0].tolist()) <= {2, 3}


def test_evaluation_is_the_accuracy_on_all_held_out_samples(parts):
    """The Evaluator's number equals one forward pass over the test part, on a task that is not the present one."""
    made = parts("sequence=digits_splits-masked", "sequence.cycles=1")
    agent = made.agent.learn(64 * 100)
    task = made.sequence.tasks[0]
    score = Evaluator(EvaluationConfig(episodes=8), made.switching.common, 1).mean_return(agent, task)

    test = standardised("digits", folder()).test.of_classes(np.array([0, 1]))
    logits = agent.policy.networks()["classifier"](torch.as_tensor(test.images))[:, :2]
    assert score == pytest.approx((logits.argmax(1).numpy() == test.labels).mean(), abs=1e-6)


@pytest.mark.parametrize("episodes", [3, 10, 21])
def test_no_number_of_episodes_counts_a_held_out_sample_twice(parts, episodes):
    made = parts("sequence=digits_splits-masked", "sequence.cycles=1")
    agent, task = made.agent.learn(64 * 100), made.sequence.tasks[0]
    few, eight = (
        Evaluator(EvaluationConfig(episodes=count), made.switching.common, 1).mean_return(agent, task)
        for count in (episodes, 8)
    )
    assert few == pytest.approx(eight, abs=1e-6)


def test_the_callback_for_agents_of_stable_baselines3_meets_its_observations(parts, tmp_path):
    agent = parts(RANDOM).agent
    agent.set_logger(configure(str(tmp_path), ["tensorboard"]))
    callback = PlasticityCallback(every=64 * 8, probe_size=64)
    agent.learn(64 * 16, callback)
    assert callback.probe.shape == (64, 1, 8, 8)
    assert callback.measure()


def test_methods_act_at_switches(parts):
    """full_reset: the network after a switch is a fresh one, whatever came before."""
    made = parts(RANDOM, "method=[full_reset]")
    start = copy.deepcopy(made.agent.policy.state_dict())
    made.agent.learn(64 * 32)
    made.agent.on_switch(made.env)
    now = made.agent.policy.state_dict()
    assert now["body.0.weight"].shape == start["body.0.weight"].shape
    assert not now["body.0.bias"].any()
    assert not made.agent.policy.optimizer.state


def test_tasks_without_labels_are_refused(parts):
    with pytest.raises(UserError, match="labels"):
        parts("sequence=nine_rooms-smoke")


@pytest.mark.parametrize("agent", ["ppo", "dqn"])
def test_reinforcement_learners_take_streams_too(parts, agent):
    made = parts("sequence=digits_permuted-smoke", f"agent={agent}")
    made.agent.learn(1024)
    assert made.agent.num_timesteps >= 1024


def test_a_stopped_run_resumes_exactly(configured, tmp_path, monkeypatch):
    """Stopped in the middle of a pass and of an episode, and resumed: the same weights, returns and accuracies."""
    words = ["sequence=digits_noisy-smoke", "optimizer=adamo", "network=aei"]
    whole = experiment.start(configured(*words, f"run_dir={tmp_path / 'whole'}"))

    def stop(self):
        if self.model.num_timesteps == 2_560:
            self.save()
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RunCallback, "_on_rollout_start", stop)
        with pytest.raises(KeyboardInterrupt):
            experiment.start(configured(*words, f"run_dir={tmp_path / 'parts'}"))
    resumed = experiment.resume(str(tmp_path / "parts"))
    for part in ("returns", "evaluation", "diagnostics"):
        assert repr(whole[part]) == repr(resumed[part])  # NaN is NaN here
    ours, theirs = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["policy"]
        for name in ("parts", "whole")
    )
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_a_schedule_falls_with_the_remaining_progress(parts):
    agent, rates = parts(RANDOM).agent, []
    agent.lr_schedule = lambda remaining: 1e-3 * remaining

    class Notes(BaseCallback):
        def _on_rollout_start(self):
            rates.append(agent.policy.optimizer.param_groups[0]["lr"])

        def _on_step(self):
            return True

    agent.learn(4 * 64, Notes())
    last = agent.policy.optimizer.param_groups[0]["lr"]
    np.testing.assert_allclose([*rates[1:], last], [1e-3, 0.75e-3, 0.5e-3, 0.25e-3])
