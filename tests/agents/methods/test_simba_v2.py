"""network=simba_v2 in every learner, and what methods make of a network that is no chain of layers."""

import pytest
import torch

from isorl.agents.options import AGENTS
from isorl.plasticity import NetworkSpec
from isorl.plasticity.methods import METHODS
from isorl.plasticity.networks.hypersphere import UnitRows
from tests.agents.methods.conftest import build, functions, parameters, switch, updates
from tests.agents.methods.test_contract import load, save

SIMBA = NetworkSpec(widths=(16, 16), architecture="simba_v2")
LAYERWISE = {
    "continual_backprop",
    "cpr",
    "fire",
    "gram",
    "jacobian",
    "l2_er",
    "layer_reset",
    "parseval",
    "plasticity_injection",
    "redo",
    "regrama",
    "reperturbation",
    "self_normalised_resets",
}
"""Methods that act on hidden layers one by one."""
OF_CHAINS = {
    "crelu",
    "deep_fourier",
    "leaky_relu",
    "layer_norm",
    "normalise_and_project",
    "prelu",
    "spectral_norm",
}
"""Methods that are a part of a plain network."""
PAIRS = [
    (name, agent)
    for name, method in METHODS.items()
    for agent, (cls, _) in AGENTS.items()
    if cls.LABELLED or not method.needs_labels
]


@pytest.mark.parametrize(("name", "agent"), PAIRS)
def test_a_method_serves_it_or_is_refused_by_name(name, agent):
    if METHODS[name].requires:
        pytest.importorskip(METHODS[name].requires)
    methods = {name: METHODS[name]()}
    if name in LAYERWISE:
        with pytest.raises(
            ValueError, match=f"Method '{name}' acts on hidden layers one by one, but Embedder"
        ):
            build(agent, "mlp", methods, network=SIMBA)
    elif name == "adaptive_isometry":
        with pytest.raises(
            ValueError, match="controls the strength of an isometry penalty, and this run has none"
        ):
            build(agent, "mlp", methods, network=SIMBA)
    elif name in OF_CHAINS:
        with pytest.raises(ValueError, match=r"architecture='simba_v2' and .* cannot combine"):
            build(agent, "mlp", methods, network=SIMBA)
    else:
        trained = build(agent, "mlp", methods, network=SIMBA)
        trained.learn(32)
        switch(trained)
        updates(trained)
        assert all(torch.isfinite(output).all() for output in functions(trained).values())


def rows(agent):
    """The norms of all rows that shall have norm one."""
    layers = [module for module in agent.policy.modules() if isinstance(module, UnitRows)]
    return torch.cat([layer.weight.norm(dim=1) for layer in layers])


def test_rows_have_norm_one_from_the_start_and_after_updates(agent_name, body):
    agent = build(agent_name, body, {}, network=SIMBA)
    start = parameters(agent)
    torch.testing.assert_close(rows(agent), torch.ones_like(rows(agent)))
    agent.learn(32)
    updates(agent)
    torch.testing.assert_close(rows(agent), torch.ones_like(rows(agent)))
    online = [name for name, _ in agent.policy.named_parameters() if "target" not in name]
    learned = parameters(agent)
    assert all(not torch.equal(start[name], learned[name]) for name in online if start[name].any())


def test_a_resumed_agent_goes_on_exactly(agent_name):
    agent = build(agent_name, "mlp", {}, network=SIMBA)
    agent.learn(32)
    resumed = build(agent_name, "mlp", {}, network=SIMBA, seed=4)
    load(resumed, save(agent))
    for name, value in parameters(agent).items():
        assert torch.equal(parameters(resumed)[name], value), name
