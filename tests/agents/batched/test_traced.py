"""Networks of several runs in numpy answer and learn as each does by torch."""

import numpy as np
import pytest
import torch
from torch import nn

from isorl.agents.batched.traced import traced
from isorl.agents.fast_policies import numpy_inference
from isorl.plasticity import NetworkSpec, build_mlp
from isorl.plasticity.networks.activations import ACTIVATIONS
from tests.agents.batched.test_runs import ContinualDQN, ContinualPPO, build

SPECS = {name: {"activation": name} for name in sorted(ACTIVATIONS)} | {
    "layer norm": {"layer_norm": True},
    "hard isometry": {"activation": "maxmin", "isometry": "hard"},
}


class Policy(nn.Module):
    """A body and a head."""

    def __init__(self, **spec):
        super().__init__()
        body = build_mlp(5, NetworkSpec((16, 16), **spec))
        self.network = nn.Sequential(body, nn.Linear(body.out_features, 3))


def policies(runs=6, **spec):
    torch.manual_seed(0)
    made = [Policy(**spec) for _ in range(runs)]
    for number, each in enumerate(made):
        for parameter in each.parameters():
            parameter.data += 0.1 * number * torch.randn_like(parameter)
        if "isometry" not in spec:  # such weights have full rank
            next(each.parameters()).data[:2] = 0  # units that are equal
    return made


def stacked(made):
    return {
        name: torch.stack([dict(each.named_parameters())[name].detach() for each in made])
        for name, _ in made[0].named_parameters()
    }


@pytest.mark.parametrize("batch", [4, 24])
@pytest.mark.parametrize("spec", SPECS)
def test_answers_and_gradients_are_autograds(spec, batch):
    made = policies(**SPECS[spec])
    weights, names = stacked(made), [name for name, _ in made[0].named_parameters()]
    x, slope = torch.randn(6, batch, 5), torch.randn(6, batch, 3)

    def loss(x, slope):
        answers = made[0].network(x)
        return {"loss": (answers * slope).sum(), "answers": answers}

    graph, found_names = traced(made[0], loss, weights, [x, slope], names)
    assert found_names == ["loss", "answers"]
    for _ in range(2):  # it follows the weights
        _, answers, *gradients = graph(*(each.numpy() for each in (*weights.values(), x, slope)))
        for run, policy in enumerate(made):
            policy.load_state_dict({name: weight[run] for name, weight in weights.items()}, strict=False)
            expected = policy.network(x[run])
            np.testing.assert_allclose(answers[run], expected.detach().numpy(), rtol=1e-4, atol=1e-5)
            slopes = torch.autograd.grad((expected * slope[run]).sum(), list(policy.parameters()))
            for ours, theirs in zip(gradients, slopes, strict=True):
                np.testing.assert_allclose(ours[run], theirs.numpy(), rtol=1e-3, atol=2e-5)
        for weight in weights.values():
            weight.mul_(0.9)


def test_what_a_loss_does_not_depend_on_has_no_gradient():
    made = policies(2)
    names = [name for name, _ in made[0].named_parameters()]
    body = made[0].network[0]
    graph, _ = traced(
        made[0], lambda x: [body(x).square().mean()], stacked(made), [torch.randn(2, 4, 5)], names
    )
    given = (*stacked(made).values(), torch.randn(2, 4, 5))
    _, *gradients = graph(*(each.numpy() for each in given))
    assert [bool(np.any(gradient)) for gradient in gradients] == [True] * 4 + [False] * 2


def test_what_is_written_in_place_is_written_every_time():
    """Into a view that nobody else reads, into what is made anew for each call, and never into what was given."""
    made = policies(2)

    def text(x):
        ours, whole = torch.zeros_like(x[0]), x * 1
        ours[:1].add_(x.mean())
        whole.diagonal().mul_(0.5)
        return [ours, whole]

    graph, _ = traced(made[0], text, {}, [torch.randn(2, 4, 5)])
    for _ in range(2):
        x = torch.randn(2, 4, 5)
        before = x.clone()
        ours, whole = graph(x.numpy())
        expected = [text(own) for own in x]
        np.testing.assert_allclose(ours, np.stack([each for each, _ in expected]), rtol=1e-6)
        np.testing.assert_allclose(whole, np.stack([each for _, each in expected]), rtol=1e-6)
        assert torch.equal(x, before)


@pytest.mark.parametrize("agent", [ContinualPPO, ContinualDQN])
@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_policies_act_in_numpy_as_in_torch(agent, deterministic, env):
    if agent is ContinualDQN and env == "Pendulum-v1":
        env = "isorl/Catch-v0"  # images that an MLP reads
    policy = build(agent, 0, env=env).policy
    space = policy.observation_space
    observations = np.stack([space.sample() for _ in range(8)])

    def actions():
        torch.manual_seed(3)
        return policy.predict(observations, deterministic=deterministic)[0]

    for _ in range(2):
        expected = actions()
        with numpy_inference(policy):
            assert policy._in_numpy is not None
            np.testing.assert_allclose(actions(), expected, rtol=1e-5, atol=1e-6)
        for parameter in policy.parameters():
            parameter.data *= -1.5


def test_what_is_large_acts_in_torch():
    policy = build(ContinualPPO, 0, env="CartPole-v1", policy={"network": NetworkSpec((256, 256))}).policy
    with numpy_inference(policy):
        assert policy._in_numpy is None


def test_what_cannot_be_traced_acts_in_torch():
    policy = build(ContinualDQN, 0).policy
    body, observations = (
        policy.q_net.q_net[0],
        np.stack([policy.observation_space.sample() for _ in range(8)]),
    )
    plain = policy.predict(observations, deterministic=True)[0]
    body.append(Branch())
    with numpy_inference(policy):
        np.testing.assert_array_equal(policy.predict(observations, deterministic=True)[0], plain)


def test_modules_that_have_changed_since_the_last_evaluation_are_traced_anew():
    policy = build(ContinualDQN, 0).policy
    observations = np.stack([policy.observation_space.sample() for _ in range(8)])
    sign = Branch()
    policy.q_net.q_net.append(sign)
    for sign.factor in (1.0, -1.0):
        plain = policy.predict(observations, deterministic=True)[0]
        with numpy_inference(policy):
            np.testing.assert_array_equal(policy.predict(observations, deterministic=True)[0], plain)


class Branch(nn.Module):
    """Hands on what it is given, as long as that is finite, or times a number of its own."""

    factor = None

    def forward(self, x):
        if self.factor is not None:
            return self.factor * x
        return x if x.isfinite().all() else x.nan_to_num()
