"""Functions that must be preserved at the moment of the act, on whole agents."""

import torch

from isorl.plasticity.methods import METHODS, Batch
from isorl.plasticity.methods.structure import hidden_layers
from tests.agents.methods.conftest import (
    build,
    functions,
    parameters,
    some_inputs,
    switch,
    updates,
    with_method,
)


def test_injection_preserves_the_function(agent_name, body):
    agent = with_method(agent_name, body, "plasticity_injection")
    agent.learn(32)
    before = functions(agent)
    switch(agent)
    for network, output in functions(agent).items():
        torch.testing.assert_close(output, before[network], rtol=1e-5, atol=1e-5)


def test_injection_freezes_the_old_tail_and_trains_the_new_one(agent_name, body):
    agent = with_method(agent_name, body, "plasticity_injection")
    agent.learn(32)
    switch(agent)
    before = parameters(agent)
    updates(agent)
    after = parameters(agent)
    names = [n for n, _ in agent.policy.named_parameters() if "target" not in n]
    for part, moves in ((".old.", False), (".twin.", False), (".new.", True)):
        found = [name for name in names if part in name]
        assert found
        assert all(torch.equal(before[n], after[n]) is not moves for n in found)


def test_a_target_network_takes_over_that_the_injection_has_happened():
    agent = with_method("dqn", "mlp", "plasticity_injection")
    agent.learn(32)
    switch(agent)
    source, target = agent.policy.q_net, agent.policy.q_net_target
    target.load_state_dict(source.state_dict())
    flags = [module.active for module in target.modules() if hasattr(module, "twin")]
    assert flags
    assert all(flags)
    x = some_inputs(agent)
    torch.testing.assert_close(target(x), source(x), rtol=0, atol=0)
    idle = with_method("dqn", "mlp", "plasticity_injection")
    assert not any(module.active for module in idle.policy.q_net_target.modules() if hasattr(module, "twin"))


def test_injection_happens_once():
    agent = with_method("dqn", "mlp", "plasticity_injection", at_switch=2)
    agent.learn(32)
    method = agent.methods.by_name["plasticity_injection"]
    seen = []
    for _ in range(3):
        switch(agent)
        seen.append(
            [t.new.state_dict() and float(next(t.new.parameters()).detach().sum()) for t in method._triples]
        )
        updates(agent)
        assert method._injected == (method._switches >= 2)
    assert seen[0] != seen[1]


def test_before_injection_an_agent_learns_as_without_it(agent_name, body):
    outcomes = []
    for methods in ({"plasticity_injection": METHODS["plasticity_injection"]()}, {}):
        agent = build(agent_name, body, methods).learn(32)
        updates(agent)
        outcomes.append(functions(agent))
    for network, output in outcomes[0].items():
        assert torch.equal(output, outcomes[1][network])


def test_redo_on_exactly_dormant_units_preserves_all_networks(agent_name, body):
    agent = with_method(agent_name, body, "redo", tau=0.0, every=10**6)
    agent.learn(32)
    layers = hidden_layers(agent.learner.networks)
    with torch.no_grad():
        for layer in layers:
            layer.maker.weight[[1, 3]] = 0
            layer.maker.bias[[1, 3]] = -1
    expected = functions(agent)
    redo = agent.methods.by_name["redo"]
    redo._updates = redo.every - 1
    redo.after_update(Batch(lambda: some_inputs(agent)))
    for network, output in functions(agent).items():
        assert torch.equal(output, expected[network])
    assert all((layer.maker.weight[[1, 3]] != 0).any() for layer in layers)
