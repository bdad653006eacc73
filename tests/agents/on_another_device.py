"""Whatever is computed beside the network is computed on its device, and as on the processor."""

import json
from pathlib import Path

import pytest
import torch
from stable_baselines3.common.logger import configure

from isorl.agents import ContinualDQN, ContinualPPO, PlasticityCallback
from isorl.plasticity import AdamO, NetworkSpec
from isorl.plasticity.methods import METHODS
from tests.agents.methods.conftest import switch, with_method
from tests.agents.test_parity import cartpole, pictures
from tests.card import OnCard

SHORT = {
    ContinualPPO: dict(n_steps=16, batch_size=16, n_epochs=2),
    ContinualDQN: dict(learning_starts=20, buffer_size=200, train_freq=4),
}


@pytest.fixture(autouse=True)
def _modules_keep_their_parameters():
    """As on a GPU, where `Module.to` moves what a parameter holds: the optimizer still has the same one."""
    torch.__future__.set_swap_module_params_on_conversion(True)
    yield
    torch.__future__.set_swap_module_params_on_conversion(False)


def test_the_card_tells_devices_apart():
    layer, x = torch.nn.Linear(3, 2).to("card"), torch.randn(4, 3)
    with pytest.raises(RuntimeError, match="same device"):
        layer(x)
    layer(x.to("card")).square().sum().backward()
    assert isinstance(layer.weight.grad, OnCard)
    assert layer.weight.grad.device.type == "card"
    expected = 2 * (x @ layer.weight.cpu().T + layer.bias.cpu()).T @ x
    torch.testing.assert_close(layer.weight.grad.cpu(), expected)
    with pytest.raises((RuntimeError, TypeError)):
        layer.weight.detach().numpy()


def trained(folder, agent, make, exact, device, **policy_kwargs):
    torch.manual_seed(0)
    model = agent(
        "NetworkPolicy",
        make(2),
        exact=exact,
        device=device,
        seed=0,
        policy_kwargs=policy_kwargs,
        **SHORT[agent],
    )
    model.set_logger(configure(str(folder / device), ["json"]))
    model.learn(64, callback=PlasticityCallback(every=32))
    model.logger.close()
    assert all(isinstance(p, OnCard) == (device == "card") for p in model.policy.parameters())
    return model


def measured(model):
    lines = (Path(model.logger.dir) / "progress.json").read_text().splitlines()
    found = {key: value for line in lines for key, value in json.loads(line).items() if "plasticity/" in key}
    return {key: value for key, value in found.items() if not isinstance(value, list)}  # spectra


@pytest.mark.parametrize(
    ("exact", "optimizer"), [(False, AdamO), (True, torch.optim.Adam)], ids=["fast", "exact"]
)
@pytest.mark.parametrize("make", [cartpole, pictures])
@pytest.mark.parametrize("agent", [ContinualPPO, ContinualDQN])
def test_agents_learn_and_are_measured_the_same(tmp_path, agent, make, exact, optimizer):
    policy = {"optimizer_class": optimizer, "network": NetworkSpec(activation="maxmin", isometry="soft")}
    there, here = (trained(tmp_path, agent, make, exact, device, **policy) for device in ("card", "cpu"))
    for ours, theirs in zip(there.policy.parameters(), here.policy.parameters(), strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-4, atol=1e-6)
    assert len(measured(here)) > 30
    assert measured(there) == pytest.approx(measured(here), rel=1e-2, abs=1e-3, nan_ok=True)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"jacobian"}))  # the card has no generators of its own
def test_methods_act_the_same(name):
    learner = "classifier" if METHODS[name].needs_labels else "ppo"
    weights = []
    for device in ("card", "cpu"):
        agent = with_method(learner, "cnn", name, device=device)
        for _ in range(2):
            agent.learn(32, reset_num_timesteps=False)
            switch(agent)
        weights.append(torch.cat([p.detach().cpu().flatten() for p in agent.policy.parameters()]))
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-6)
