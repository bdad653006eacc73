"""What an update logs is what stable-baselines3 logs: every key, every value, whatever computes the update."""

import numpy as np
import pytest
from stable_baselines3 import DQN, PPO

from isorl.agents import ContinualDQN, ContinualPPO
from isorl.agents.batched import BatchedRuns
from isorl.plasticity import NetworkSpec
from tests.agents.batched.test_runs import ACTS_SOON, SEEDS, build
from tests.agents.test_parity import DQN_ARGUMENTS, PPO_ARGUMENTS, cartpole, pendulum

TRAINING = {"train/loss", "train/n_updates", "train/learning_rate"}
OF_PPO = {f"train/{name}" for name in (
    "policy_gradient_loss", "value_loss", "entropy_loss", "approx_kl", "clip_fraction", "clip_range",
    "explained_variance",
)}  # fmt: skip
NETWORK = {"network": NetworkSpec(activation="tanh")}


def logged_by(agent, steps):
    """What the last update of `steps` logs; DQN reads its loss when rows are written."""
    agent.learn(steps)
    kept = {}
    agent.logger.dump = lambda step: kept.update(agent.logger.name_to_value)
    agent.dump_logs()
    return {key: float(np.asarray(value)) for key, value in kept.items() if key.startswith("train/")}


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "fast"])
@pytest.mark.parametrize(
    ("make", "options", "keys"),
    [(cartpole, {"ent_coef": 0.1, "n_epochs": 3}, set()),
     (pendulum, {"clip_range_vf": 0.1}, {"train/std", "train/clip_range_vf"}),
     (pendulum, {"use_sde": True, "clip_range": 0.001}, {"train/std"}),
     (cartpole, {"clip_range": lambda progress: 0.002 * (1 + progress)}, set()),
     (cartpole, {"batch_size": 24}, set())],
    ids=["discrete", "continuous", "state-dependent", "schedule", "minibatches of two sizes"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_ppo_logs_what_sb3_logs(make, options, keys, exact):
    arguments = {**PPO_ARGUMENTS, "learning_rate": 1e-3, "clip_range": 0.01, **options}
    theirs = logged_by(PPO("MlpPolicy", make(2), **arguments), 128)
    assert theirs.keys() == TRAINING | OF_PPO | keys
    assert theirs["train/clip_fraction"] > 0
    ours = logged_by(
        ContinualPPO("NetworkPolicy", make(2), exact=exact, policy_kwargs=NETWORK, **arguments), 128
    )
    assert ours == pytest.approx(theirs, rel=1e-5 if exact else 2e-2, abs=1e-6 if exact else 1e-3)


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "fast"])
def test_dqn_logs_what_sb3_logs(exact):
    arguments = {**DQN_ARGUMENTS, "train_freq": 4, "gradient_steps": 3}
    theirs = logged_by(DQN("MlpPolicy", cartpole(1), **arguments), 256)
    ours = logged_by(ContinualDQN("NetworkPolicy", cartpole(1), exact=exact, **arguments), 256)
    assert ours.keys() == theirs.keys() == TRAINING
    assert ours == pytest.approx(theirs, rel=1e-5 if exact else 1e-3)


@pytest.mark.parametrize("kind", ["exact", "fast"])
def test_target_kl_ends_the_epochs(kind):
    """At the first minibatch whose KL divergence is beyond 1.5 times the target, before it is learned from."""

    def updates(target_kl):
        options = dict(
            n_epochs=10, learning_rate=3e-2, target_kl=target_kl, switches=(64,), exact=kind == "exact"
        )
        [run] = BatchedRuns().results([lambda: build(ContinualPPO, 0, **options).learn(64)])
        return run._n_updates, run.logger.name_to_value["train/approx_kl"]

    (free, far), (held, near), (tight, _) = (updates(target) for target in (None, 0.02, 1e-9))
    assert free == 20
    assert tight == 2, "one epoch of each of two rollouts"
    assert 2 <= held < 20
    assert near < far


def test_target_kl_ends_the_epochs_where_it_ends_sb3s():
    """Of several targets, so that 1.5 times each lies between other epochs' divergences."""

    def updates(agent, policy, target_kl):
        arguments = {**PPO_ARGUMENTS, "n_epochs": 10, "learning_rate": 1e-2, "target_kl": target_kl}
        return agent(policy, cartpole(2), **arguments).learn(128)._n_updates

    targets = [0.002 * 1.4**number for number in range(8)]
    theirs = [updates(PPO, "MlpPolicy", target) for target in targets]
    assert len(set(theirs)) > 3
    assert [updates(ContinualPPO, "MlpPolicy", target) for target in targets] == theirs


@pytest.mark.parametrize("agent", [ContinualPPO, ContinualDQN])
@pytest.mark.parametrize("methods", [["l2"], ["l2_init", "gram"]], ids=["one loss", "two losses"])
def test_runs_together_log_what_each_logs_alone(agent, methods):
    """The loss with what methods add, of each run its own."""
    options = dict(methods=methods, switches=(4096,), learning_rate=1e-3)

    def train(seed, **more):
        return logged_by(build(agent, seed, **options, **more), 128)

    together = BatchedRuns().results([lambda seed=seed: train(seed) for seed in SEEDS])
    alone = [train(seed, exact=True) for seed in SEEDS]
    assert len({values["train/loss"] for values in alone}) == len(SEEDS)
    for ours, theirs in zip(together, alone, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-2, abs=1e-4)


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "batched"])
@pytest.mark.parametrize("agent", [ContinualPPO, ContinualDQN])
def test_the_logged_loss_holds_what_methods_add(agent, exact, monkeypatch):
    """Of weights that stay as they are: strength times their squared norm."""
    monkeypatch.setitem(ACTS_SOON, "l2", {"strength": 0.5, "decoupled": False})

    def loss(methods):
        run = build(agent, 0, methods=methods, switches=(64,), learning_rate=0.0, exact=exact)
        values = logged_by(run, 64)
        trained = [p for group in run.policy.optimizer.param_groups for p in group["params"]]
        return values["train/loss"], sum(p.square().sum().item() for p in trained)

    (plain, squares), (with_method, same) = loss([]), loss(["l2"])
    assert squares == same
    assert with_method - plain == pytest.approx(0.5 * squares, rel=1e-4)
