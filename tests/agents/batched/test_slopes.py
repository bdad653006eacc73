"""The derivatives written out in agents/batched/slopes.py are those that autograd finds of the agents' own losses."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from isorl.agents import distributions
from isorl.agents.batched import slopes
from isorl.agents.batched.slopes import TERMS, Coefficients, surrogate_slopes, td_slope
from isorl.agents.dqn import td_loss
from isorl.agents.ppo import Weights, surrogate

RUNS, SAMPLES, ACTIONS = 3, 40, 4


@pytest.fixture
def batch():
    torch.manual_seed(0)
    columns = ("old_values", "old_log_prob", "advantages", "returns")
    return {name: torch.randn(RUNS, SAMPLES, dtype=torch.float64) for name in columns}


def each(*values):
    return np.array(values)[:, None]


@pytest.mark.parametrize("discrete", [True, False], ids=["categorical", "gaussian"])
@pytest.mark.parametrize("clip_range_vf", [None, each(0.5, 0.2, 1.0)], ids=["free values", "clipped values"])
@pytest.mark.parametrize(
    "told",
    [(True, each(0.1, 0.1, 0.1), each(0.5, 0.5, 0.5)), (True, each(0.0, 0.0, 0.0), each(0.5, 1.0, 0.2)),
     (False, each(0.1, 0.0, 0.3), each(2.0, 2.0, 0.5))],
    ids=["usual", "no entropy bonus", "raw advantages"],
)  # fmt: skip
def test_surrogate(batch, discrete, clip_range_vf, told):
    """Each run with coefficients of its own."""
    shape = (RUNS, SAMPLES, ACTIONS)
    actor = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    critic = torch.randn(RUNS, SAMPLES, 1, dtype=torch.float64, requires_grad=True)
    log_std = torch.randn(RUNS, ACTIONS, dtype=torch.float64, requires_grad=True)
    if discrete:
        batch["actions"] = torch.randint(ACTIONS, (RUNS, SAMPLES, 1))
        log_prob, entropy = distributions.categorical(actor, batch["actions"][..., 0])
        inputs = [actor, critic]
    else:
        batch["actions"] = torch.randn(shape, dtype=torch.float64)
        log_prob, entropy = distributions.gaussian(actor, log_std.unsqueeze(1), batch["actions"])
        inputs = [actor, critic, log_std]
    # ratios inside the clip range and beyond
    batch["old_log_prob"] = log_prob.detach() + 0.3 * batch["old_log_prob"]
    clip_range = each(0.2, 0.1, 0.3)
    expected, losses = [], []
    for run in range(RUNS):
        own = SimpleNamespace(**{name: column[run] for name, column in batch.items()})
        weights = Weights(told[0], *(float(column[run, 0]) for column in told[1:]))
        of_values = None if clip_range_vf is None else float(clip_range_vf[run, 0])
        loss, terms = surrogate(
            weights, own, critic[run, :, 0], log_prob[run], entropy[run], float(clip_range[run, 0]), of_values
        )
        losses.append(loss)
        expected.append([float(terms[name]) for name in TERMS])

    found, terms = surrogate_slopes(
        Coefficients(*told, clip_range, clip_range_vf),
        SimpleNamespace(**{name: column.numpy() for name, column in batch.items()}),
        {"actor": actor.detach().numpy(), "critic": critic.detach().numpy()},
        None if discrete else log_std.detach().numpy(),
    )
    for ours, theirs in zip(found, torch.autograd.grad(sum(losses), inputs), strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(terms.mean(-1).T, expected, rtol=1e-6, atol=1e-9)
    assert 0.1 < terms[TERMS.index("clip_fraction")].mean() < 0.9


def test_td_loss():
    torch.manual_seed(0)
    q = torch.randn(RUNS, SAMPLES, ACTIONS, dtype=torch.float64, requires_grad=True)
    actions = torch.randint(ACTIONS, (RUNS, SAMPLES, 1))
    target = 2 * torch.randn(RUNS, SAMPLES, dtype=torch.float64)
    loss = td_loss(q.gather(-1, actions)[..., 0], target)
    slope, losses = td_slope(q.detach().numpy(), actions.numpy(), target.numpy())
    np.testing.assert_allclose(losses, loss.detach().numpy())
    np.testing.assert_allclose(slope, torch.autograd.grad(loss.sum(), q)[0].numpy())


def test_draws_are_those_of_the_agents_distributions():
    torch.manual_seed(0)
    outputs, log_std = torch.randn(RUNS, SAMPLES, ACTIONS), torch.randn(RUNS, ACTIONS)
    exponential, normal = torch.empty_like(outputs).exponential_(), torch.randn_like(outputs)
    actions, log_prob = distributions.draw_categorical(outputs, noise=exponential)
    found = slopes.draw_categorical(outputs.numpy(), exponential.numpy())
    np.testing.assert_array_equal(found[0], actions.numpy())
    np.testing.assert_allclose(found[1], log_prob.numpy(), rtol=1e-5)
    actions, log_prob = distributions.draw_gaussian(outputs, log_std.unsqueeze(1), noise=normal)
    found = slopes.draw_gaussian(outputs.numpy(), log_std.numpy(), normal.numpy())
    np.testing.assert_allclose(found[0], actions.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[1], log_prob.numpy(), rtol=1e-5, atol=1e-5)
