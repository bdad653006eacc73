"""Compiled updates compute what the others do, and say what they lack."""

import pytest
import torch
from torch._dynamo.utils import counters

from agents import ContinualDQN, ContinualPPO, compiled
from plasticity import AdamO
from tests.pack.test_pack import TOLERANCE, assert_same, build, together, weights

pytestmark = [
    pytest.mark.skipif(compiled.why_not() is not None, reason=f"there is no {compiled.why_not()}"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's compiler, of its own parts
]
ADAMO = {"optimizer_class": AdamO, "optimizer_kwargs": {"iso_lambda": 1.0}}
CASES = {
    "PPO, AdamO": dict(agent=ContinualPPO, policy=ADAMO),
    "PPO, Gaussian actions": dict(agent=ContinualPPO, env="Pendulum-v1"),
    "PPO, clipped values": dict(agent=ContinualPPO, clip_range_vf=0.2),
    "DQN": dict(agent=ContinualDQN),
    "DQN, a method that adds to the loss": dict(agent=ContinualDQN, methods=["l2_init"]),
}


@pytest.fixture
def graphs(monkeypatch):
    """Those made in this test."""
    made = {}
    monkeypatch.setattr(compiled, "_GRAPHS", made)
    return made


@pytest.mark.parametrize("case", CASES)
def test_learns_the_same(case, graphs):
    """Across a switch of tasks, after which the networks are gathered anew: one graph for both."""
    assert_same(together(**CASES[case], compile=True), together(**CASES[case]))
    assert len(graphs) == 1


def test_a_learner_alone_learns_the_same():
    """One that shares with nobody: its epochs may end early."""
    here, there = (build(ContinualPPO, 0, target_kl=0.05, compile=each).learn(128) for each in (True, False))
    torch.testing.assert_close(weights(here), weights(there), **TOLERANCE)


def test_learners_of_one_process_share_a_graph():
    """A graph for each would be made eight times; from then on nothing would be compiled."""
    build(ContinualPPO, 0, target_kl=0.05, compile=True).learn(64)
    made = counters["stats"]["unique_graphs"]
    for seed in (1, 2, 3):
        build(ContinualPPO, seed, target_kl=0.05, compile=True).learn(64)
    assert counters["stats"]["unique_graphs"] == made > 0


def test_is_repeated_to_the_bit():
    case = CASES["PPO, AdamO"]
    first, second = (together(**case, compile=True, seeds=(0, 1)) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(weights(one), weights(other))


def test_says_what_is_missing(monkeypatch):
    with pytest.raises(ValueError, match="not compiled"):
        build(ContinualPPO, 0, exact=True, compile=True)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="no-such-compiler"):
        build(ContinualPPO, 0, compile=True)
