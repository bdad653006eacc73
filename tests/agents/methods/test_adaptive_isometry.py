"""The control loop on each penalty that it serves, on every agent: it acts, is refused by name, and resumes exactly."""

import copy
import math

import pytest
import torch
from torch import nn

from isorl.experiments.run import keys
from isorl.plasticity import AdamO
from isorl.plasticity.methods import METHODS, Batch
from isorl.plasticity.methods.adaptive_isometry import INDICES
from tests.agents.methods.conftest import ACTS_SOON, ADAMO, build, functions, parameters, switch, updates
from tests.agents.methods.test_contract import lived, load, save

PENALTIES = ["adamo", "gram", "jacobian"]


def controlled(agent_name, penalty, *, loop=True, seed=3, **options):
    """An agent with a penalty, and with the control loop that acts soon."""
    methods = {} if penalty == "adamo" else {penalty: METHODS[penalty](strength=0.1)}
    if loop:
        made = METHODS["adaptive_isometry"](**{**ACTS_SOON["adaptive_isometry"], **options})
        methods["adaptive_isometry"] = made
    arguments = {"policy_kwargs": copy.deepcopy(ADAMO)} if penalty == "adamo" else {}
    return build(agent_name, "mlp", methods, seed=seed, **arguments)


def strength(agent, penalty):
    if penalty == "adamo":
        optimizer = agent.policy.optimizer
        assert isinstance(optimizer, AdamO)
        return {group["iso_lambda"] for group in optimizer.param_groups if group["isometric"]}.pop()
    return agent.methods.by_name[penalty].strength


@pytest.fixture(params=PENALTIES)
def penalty(request):
    return request.param


def test_it_raises_the_strength_of_every_penalty_and_changes_learning(agent_name, penalty):
    agent, plain = (controlled(agent_name, penalty, loop=loop) for loop in (True, False))
    given = strength(plain, penalty)
    assert strength(agent, penalty) == given
    ours, theirs = functions(lived(agent)), functions(lived(plain))
    notes = agent.methods.take_notes()
    assert strength(plain, penalty) == given
    assert max(note.values[f"strength/{penalty}"] for _, note in notes) >= 2 * given
    assert strength(agent, penalty) == notes[-1][1].values[f"strength/{penalty}"]
    assert any(not torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_resumed_loop_goes_on_exactly(agent_name, penalty):
    agent = controlled(agent_name, penalty)
    agent.learn(32)
    updates(agent)
    resumed = controlled(agent_name, penalty, seed=4)
    load(resumed, save(agent))
    assert strength(resumed, penalty) == strength(agent, penalty)
    for one in (agent, resumed):
        one._current_progress_remaining = 1.0
        one.set_logger(agent.logger)
        for storage in ("rollout_buffer", "replay_buffer", "_answered"):
            if hasattr(agent, storage):
                setattr(one, storage, copy.deepcopy(getattr(agent, storage)))
        updates(one, seed=1)
        switch(one)
        updates(one, seed=2)
    assert strength(resumed, penalty) == strength(agent, penalty)
    assert [repr(n) for n in resumed.methods.take_notes()] == [repr(n) for n in agent.methods.take_notes()]
    theirs = parameters(agent)
    assert all(
        torch.equal(value, theirs[key])
        for key, value in parameters(resumed).items()
        if hasattr(value, "shape")
    )


def test_without_a_penalty_or_with_none_left_it_is_refused(agent_name):
    loop = METHODS["adaptive_isometry"]
    with pytest.raises(ValueError, match="optimizer=adamo, or method="):
        build(agent_name, "mlp", {"adaptive_isometry": loop()})
    with pytest.raises(ValueError, match="multiplies the strength of 'gram', which is 0"):
        build(agent_name, "mlp", {"gram": METHODS["gram"](strength=0.0), "adaptive_isometry": loop()})


@pytest.mark.parametrize("index", INDICES)
def test_every_index_rises_as_plasticity_declines(index):
    """Of a network half of whose units are killed and whose features are made alike, against the intact one."""
    torch.manual_seed(0)
    agent = controlled("classifier", "gram", index=index)
    loop = agent.methods.by_name["adaptive_isometry"]
    batch = Batch(lambda: torch.randn(32, 4, generator=torch.Generator().manual_seed(1)))
    healthy, dormant = loop._measured(batch)
    first, last = [m for m in agent.policy.body.modules() if isinstance(m, nn.Linear)]
    with torch.no_grad():
        first.weight.mul_(0.1).add_(3 * torch.ones_like(first.weight) * first.weight.mean().sign())
        last.bias[::2] = -100
    ill, killed = loop._measured(Batch(lambda: batch.inputs))
    assert ill > healthy >= 0
    assert killed > dormant
    assert math.isfinite(ill)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1.0, 2.0, 2.0, 4.0, 2.0, 1.0]),
        ({"recovery": 1.0, "lowest": 0.25}, [0.5, 1.0, 1.0, 2.0, 2.0, 1.0]),
        ({"lowest": 0.25}, [0.5, 1.0, 1.0, 2.0, 1.0, 0.5]),
        ({"highest": 2.0}, [1.0, 2.0, 2.0, 2.0, 1.0, 1.0]),
    ],
    ids=str,
)
def test_the_strength_follows_what_is_measured(options, expected, monkeypatch):
    """A rise for the index, a wait's worth of fewer dormant units, a rise as they stay, then two falls."""
    seen = iter([(1.0, 0.0), (2.0, 0.2), (1.3, 0.1), (1.8, 0.1), (1.05, 0.0), (1.0, 0.0)])
    options = {"decline": 1.5, "recovery": 1.1, **options}
    agent = controlled("classifier", "gram", **options)
    loop = agent.methods.by_name["adaptive_isometry"]
    monkeypatch.setattr(loop, "_measured", lambda batch: next(seen))
    found = []
    for _ in expected:
        loop.after_update(None)
        found.append(strength(agent, "gram") / 0.1)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"index": "ntk"}, "ntk_index"),
        ({"every": 0}, "at least 1"),
        ({"factor": 1.0}, "above 1"),
        ({"recovery": 2.0}, "from 1 to decline, 1.5"),
        ({"lowest": 0.0}, "above 0 and at most 1"),
        ({"highest": 0.5}, "at least 1"),
    ],
)
def test_options_that_cannot_work(options, said):
    with pytest.raises(ValueError, match=said):
        METHODS["adaptive_isometry"](**options)


def test_decisions_are_logged_by_keys_that_are_explained(agent_name):
    agent = lived(controlled(agent_name, "gram"))
    ((name, note), *_) = agent.methods.take_notes()
    assert all(keys.explained(f"method/{name}/{key}") for key in note.values)
    assert agent.methods.take_notes() == []
