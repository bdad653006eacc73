"""The fast mode computes what the exact one computes, within rounding; its parts, each on its own."""

import logging
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from torch.distributions import Categorical, Normal

from isorl.agents import ContinualDQN, ContinualPPO
from isorl.agents.distributions import categorical, draw_categorical, draw_gaussian, gaussian
from isorl.agents.fast_policies import FastActorCritic, MixedPrecisionMixin
from isorl.agents.rollout import Rollout
from isorl.plasticity import AdamO, NetworkSpec
from isorl.plasticity.methods import METHODS
from tests.agents.methods.conftest import needs
from tests.agents.test_parity import DQN_ARGUMENTS, PPO_ARGUMENTS, cartpole, pendulum, pictures
from tests.conftest import waiting_for_the_device_raises

TOLERANCE = dict(rtol=1e-4, atol=1e-6)
"""Of weights after 16 to 64 updates: rounding, of which Adam's division makes more."""


def weights(agent):
    return torch.cat([p.detach().flatten() for p in agent.policy.parameters()])


def trained(agent, make, exact, steps=256, methods=(), **kwargs):
    torch.manual_seed(0)
    arguments = PPO_ARGUMENTS if agent is ContinualPPO else DQN_ARGUMENTS
    given = {name: METHODS[name]() for name in methods}
    model = agent("NetworkPolicy", make(2), exact=exact, methods=given, **arguments, **kwargs).learn(steps)
    assert model.exact == exact
    return model


@pytest.mark.parametrize("activation", ["tanh", "relu", "maxmin", "crelu"])
@pytest.mark.parametrize("make", [cartpole, pendulum])
def test_fast_ppo_computes_the_same(make, activation):
    kwargs = {"policy_kwargs": {"network": NetworkSpec(activation=activation)}}
    exact, fast = (trained(ContinualPPO, make, exact, **kwargs) for exact in (True, False))
    torch.testing.assert_close(weights(fast), weights(exact), **TOLERANCE)


@pytest.mark.parametrize("isometry", ["none", "soft", "projected"])
def test_fast_ppo_computes_the_same_from_images(isometry):
    network = NetworkSpec(activation="maxmin" if isometry != "none" else "relu", isometry=isometry)
    kwargs = {
        "policy_kwargs": {"network": network, "optimizer_class": AdamO, "optimizer_kwargs": {"iso_every": 1}}
    }
    exact, fast = (trained(ContinualPPO, pictures, exact, 128, **kwargs) for exact in (True, False))
    torch.testing.assert_close(weights(fast), weights(exact), **TOLERANCE)


@pytest.mark.parametrize("make", [cartpole, pictures])
def test_fast_dqn_computes_the_same(make):
    exact, fast = (trained(ContinualDQN, make, exact) for exact in (True, False))
    torch.testing.assert_close(weights(fast), weights(exact), **TOLERANCE)


@pytest.mark.parametrize("options", [{"target_kl": 1e-4}, {"clip_range_vf": 0.1}], ids=str)
def test_fast_ppo_computes_the_same_with_options(options):
    exact, fast = (trained(ContinualPPO, cartpole, exact, **options) for exact in (True, False))
    torch.testing.assert_close(weights(fast), weights(exact), **TOLERANCE)
    assert fast._n_updates == exact._n_updates


@pytest.mark.parametrize("agent", [ContinualPPO, ContinualDQN])
@pytest.mark.parametrize("method", sorted(n for n in METHODS if not METHODS[n]().needs_labels))
def test_every_method_works_on_fast_networks(agent, method):
    if METHODS[method].requires is not None:
        pytest.importorskip(METHODS[method].requires)
    model = trained(agent, pictures, False, 96, [method], **needs(method))
    model.methods.on_switch()
    model.learn(64)
    assert weights(model).isfinite().all()


def test_a_method_that_acts_on_activations_acts_the_same():
    exact, fast = (trained(ContinualPPO, cartpole, exact, methods=["redo"]) for exact in (True, False))
    torch.testing.assert_close(weights(fast), weights(exact), **TOLERANCE)


@pytest.mark.parametrize("agent", [ContinualPPO, ContinualDQN])
def test_fast_agents_are_saved_and_loaded(agent, tmp_path):
    saved = trained(agent, pictures, False, 128)
    saved.save(tmp_path / "agent.zip")
    loaded = agent.load(tmp_path / "agent.zip", env=pictures(2))
    assert torch.equal(weights(saved), weights(loaded))
    assert not loaded.exact
    observations = pictures(2).reset()
    np.testing.assert_array_equal(
        saved.predict(observations, deterministic=True)[0],
        loaded.predict(observations, deterministic=True)[0],
    )
    loaded.learn(64)


def test_what_cannot_be_fast_is_exact_and_says_why(caplog):
    with caplog.at_level(logging.INFO, "isorl"):
        model = ContinualPPO("MlpPolicy", cartpole(2), exact=False, **PPO_ARGUMENTS)
    assert model.exact
    assert "MlpPolicy" in caplog.text or "ActorCriticPolicy" in caplog.text


def test_an_exact_run_in_half_precision_is_refused():
    with pytest.raises(ValueError, match="exact=True"):
        ContinualPPO("NetworkPolicy", cartpole(1), precision="bfloat16")


@pytest.mark.parametrize("agent", [ContinualPPO, ContinualDQN])
@pytest.mark.parametrize("make", [cartpole, pictures])
def test_casts_that_are_kept_change_nothing(agent, make, monkeypatch):
    """Half precision's weights are rounded once per rollout, anew after every update."""
    kept = trained(agent, make, False, 64, precision="bfloat16")
    monkeypatch.setattr(MixedPrecisionMixin, "keeping_casts", lambda policy: nullcontext())
    assert torch.equal(weights(kept), weights(trained(agent, make, False, 64, precision="bfloat16")))


def test_half_precision_is_one_precision():
    """The update's log-probabilities before any step are the rollout's, whatever the batch."""
    model = trained(ContinualPPO, pictures, False, 64, precision="bfloat16")
    model.policy.set_training_mode(False)
    observations = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (64, 4, 36, 36), dtype=np.uint8)
    )
    with torch.no_grad():
        actions, values, log_prob = model.policy(observations[:8])
        again, others, _ = model.policy.evaluate_actions(observations, torch.cat([actions] * 8))
    torch.testing.assert_close(others[:8], log_prob, rtol=0, atol=2e-3)
    torch.testing.assert_close(again[:8], values, rtol=0, atol=2e-2)
    full = FastActorCritic(**{**model.policy._get_constructor_parameters(), "precision": "float32"})
    full.load_state_dict(model.policy.state_dict())
    torch.testing.assert_close(full.predict_values(observations), again, rtol=0, atol=5e-2)
    assert not torch.equal(full.predict_values(observations), again)


def test_categorical_is_torchs():
    logits, actions = torch.randn(50, 7), torch.randint(7, (50,))
    theirs = Categorical(logits=logits)
    log_prob, entropy = categorical(logits, actions)
    torch.testing.assert_close(log_prob, theirs.log_prob(actions))
    torch.testing.assert_close(entropy, theirs.entropy())
    torch.manual_seed(5)
    expected = theirs.sample()
    torch.manual_seed(5)
    noise = torch.empty_like(logits).exponential_().log_().neg_()
    drawn, log_prob = draw_categorical(logits, noise)
    assert torch.equal(drawn, expected)
    torch.testing.assert_close(log_prob, theirs.log_prob(drawn))
    assert torch.equal(draw_categorical(logits)[0], logits.argmax(1))


def test_gaussian_is_torchs():
    mean, log_std, actions = torch.randn(50, 3), torch.randn(3), torch.randn(50, 3)
    theirs = Normal(mean, log_std.exp())
    log_prob, entropy = gaussian(mean, log_std, actions)
    torch.testing.assert_close(log_prob, theirs.log_prob(actions).sum(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy, theirs.entropy().sum(1))
    torch.manual_seed(5)
    expected = theirs.rsample()
    torch.manual_seed(5)
    torch.testing.assert_close(draw_gaussian(mean, log_std, torch.randn_like(mean))[0], expected)
    assert torch.equal(draw_gaussian(mean, log_std)[0], mean)


@pytest.mark.parametrize(("actions", "copies"), [(2, 8), (5, 7), (18, 3)])
def test_random_actions_are_those_of_the_space(actions, copies):
    """Many at once, as collect.py draws them, as one by one, as stable-baselines3 does."""
    one, all_at_once = (spaces.Discrete(actions, seed=3) for _ in range(2))
    for _ in range(50):
        expected = [one.sample() for _ in range(copies)]
        found = all_at_once.start + all_at_once.np_random.integers(all_at_once.n, size=copies)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("make", [cartpole, pendulum, pictures])
def test_rollout_tensors_give_sb3s_minibatches(make):
    env, rng = make(3), np.random.default_rng(0)
    arguments = (5, env.observation_space, env.action_space, "cpu", 0.9, 0.95, 3)
    ours, theirs = Rollout(*arguments), RolloutBuffer(*arguments)
    for _ in range(2):  # the second time in used memory
        ours.reset(), theirs.reset()
        for _ in range(5):
            observations = np.stack([env.observation_space.sample() for _ in range(3)])
            actions = np.stack([env.action_space.sample() for _ in range(3)]).reshape(3, -1)
            reward, start = rng.random(3), rng.random(3) < 0.3
            value, log_prob = torch.from_numpy(rng.random((2, 3), dtype=np.float32))
            for buffer in (ours, theirs):
                buffer.add(observations, actions, reward, start, value[:, None], log_prob)
        for buffer in (ours, theirs):
            buffer.compute_returns_and_advantage(torch.ones(3, 1), np.array([True, False, False]))
            np.random.seed(1)
            buffer.batches = list(buffer.get(4)) + list(buffer.get())
        assert len(ours.batches) == len(theirs.batches)
        for left, right in zip(ours.batches, theirs.batches, strict=True):
            for a, b in zip(left[:6], right[:6], strict=True):
                assert torch.equal(a.to(b.dtype), b)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:You are trying to run PPO on the GPU")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler, of its own parts
@pytest.mark.parametrize("compile", [False, True], ids=["plain", "compiled"])
@pytest.mark.parametrize("precision", ["float32", "tfloat32", "bfloat16"])
@pytest.mark.parametrize("agent", [ContinualPPO, ContinualDQN])
def test_fast_agents_learn_on_cuda(agent, precision, compile):
    model = trained(agent, pictures, False, 128, device="cuda", precision=precision, compile=compile)
    assert weights(model).isfinite().all()
    sample = model.rollout_buffer.get(8) if agent is ContinualPPO else iter([model.replay_buffer.sample(8)])
    assert all(tensor.is_cuda for tensor in next(sample) if tensor is not None)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:You are trying to run PPO on the GPU")
def test_updates_on_cuda_wait_for_nothing(monkeypatch):
    model = trained(ContinualPPO, pictures, False, 128, device="cuda")
    monkeypatch.setattr(model, "_log", lambda *_: None)  # reads the numbers, once per rollout
    before = weights(model)
    with waiting_for_the_device_raises():
        model.train()
    assert not torch.equal(weights(model), before)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:You are trying to run PPO on the GPU")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("make", [cartpole, pictures])
@pytest.mark.parametrize("agent", [ContinualPPO, ContinualDQN])
def test_cuda_graphs_compute_the_same(agent, make):
    """One rollout's updates, from the same numbers."""
    plain, graphs = (
        trained(agent, make, False, 64, device="cuda", compile=compile) for compile in (False, True)
    )
    torch.testing.assert_close(weights(graphs), weights(plain), rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
def test_cuda_evaluates_as_the_cpu_does():
    model = trained(ContinualPPO, pictures, False, 64)
    on_cuda = FastActorCritic(**model.policy._get_constructor_parameters()).to("cuda")
    on_cuda.load_state_dict(model.policy.state_dict())
    batch = next(model.rollout_buffer.get(16))
    here = model.policy.evaluate_actions(batch.observations, batch.actions.flatten())
    there = on_cuda.evaluate_actions(batch.observations.cuda(), batch.actions.flatten().cuda())
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(b.cpu(), a, rtol=5e-3, atol=5e-3)  # convolutions in TF32
