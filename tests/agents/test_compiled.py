"""Compiled updates compute what the others do, and say what they lack."""

import pytest
import torch
from torch._dynamo.utils import counters

from isorl.agents import ContinualDQN, ContinualPPO, compiled
from isorl.agents.batched import unbatchable_reason
from isorl.plasticity import AdamO
from tests.agents.batched.test_runs import TOLERANCE, build, weights

pytestmark = [
    pytest.mark.skipif(compiled.why_not() is not None, reason=f"there is no {compiled.why_not()}"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's compiler, of its own parts
]
ADAMO = {"optimizer_class": AdamO, "optimizer_kwargs": {"iso_lambda": 1.0}}
CASES = {
    "PPO, AdamO": dict(agent=ContinualPPO, policy=ADAMO),
    "PPO, clipped values": dict(agent=ContinualPPO, clip_range_vf=0.2),
    "DQN": dict(agent=ContinualDQN),
    "DQN, a method that adds to the loss": dict(agent=ContinualDQN, methods=["l2_init"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_learns_the_same(case):
    """Across a switch of tasks."""
    here, there = (build(seed=0, **CASES[case], compile=each).learn(128) for each in (True, False))
    torch.testing.assert_close(weights(here), weights(there), **TOLERANCE)


@pytest.mark.slow
def test_learners_of_one_process_share_a_graph():
    """A graph for each would be made eight times; from then on nothing would be compiled."""
    build(ContinualPPO, 0, compile=True).learn(64)
    made = counters["stats"]["unique_graphs"]
    for seed in (1, 2, 3):
        build(ContinualPPO, seed, compile=True).learn(64)
    assert counters["stats"]["unique_graphs"] == made > 0


def test_shares_its_computations_with_nobody():
    assert "compiled" in unbatchable_reason(build(ContinualPPO, 0, compile=True))


def test_says_what_is_missing(monkeypatch):
    with pytest.raises(ValueError, match="not compiled"):
        build(ContinualPPO, 0, exact=True, compile=True)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="no-such-compiler"):
        build(ContinualPPO, 0, compile=True)
