"""The derivatives written out in agents/pack/slopes.py are those that autograd finds of the agents' own losses."""

from types import SimpleNamespace

import pytest
import torch

from agents.distributions import categorical, gaussian
from agents.dqn import td_loss
from agents.pack.slopes import surrogate_slopes, td_slope
from agents.ppo import surrogate

RUNS, SAMPLES, ACTIONS = 3, 40, 4


@pytest.fixture
def batch():
    torch.manual_seed(0)
    columns = ("old_values", "old_log_prob", "advantages", "returns")
    return SimpleNamespace(**{name: torch.randn(RUNS, SAMPLES, dtype=torch.float64) for name in columns})


@pytest.mark.parametrize("discrete", [True, False], ids=["categorical", "gaussian"])
@pytest.mark.parametrize("clip_range_vf", [None, 0.5])
@pytest.mark.parametrize(
    "options",
    [{}, {"ent_coef": 0.0}, {"normalize_advantage": False, "vf_coef": 2.0}],
    ids=["usual", "no entropy bonus", "raw advantages"],
)
def test_surrogate(batch, discrete, clip_range_vf, options):
    agent = SimpleNamespace(**{"normalize_advantage": True, "ent_coef": 0.1, "vf_coef": 0.5, **options})
    shape = (RUNS, SAMPLES, ACTIONS)
    actor = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    critic = torch.randn(RUNS, SAMPLES, 1, dtype=torch.float64, requires_grad=True)
    log_std = torch.randn(RUNS, ACTIONS, dtype=torch.float64, requires_grad=True)
    if discrete:
        batch.actions = torch.randint(ACTIONS, (RUNS, SAMPLES, 1))
        log_prob, entropy = categorical(actor, batch.actions[..., 0])
        inputs = [actor, critic]
    else:
        batch.actions = torch.randn(shape, dtype=torch.float64)
        log_prob, entropy = gaussian(actor, log_std.unsqueeze(1), batch.actions)
        inputs = [actor, critic, log_std]
    batch.old_log_prob = (
        log_prob.detach() + 0.3 * batch.old_log_prob
    )  # ratios inside the clip range and beyond
    loss, expected = surrogate(agent, batch, critic[..., 0], log_prob, entropy, 0.2, clip_range_vf)

    slopes, terms = surrogate_slopes(
        agent, batch, {"actor": actor, "critic": critic}, None if discrete else log_std.unsqueeze(1), 0.2, clip_range_vf
    )  # fmt: skip
    torch.testing.assert_close(slopes, list(torch.autograd.grad(loss.sum(), inputs)))
    assert 0.1 < expected["clip_fraction"].mean() < 0.9
    torch.testing.assert_close(terms, expected, check_dtype=False)  # clip_fraction counts in float32


def test_td_loss():
    torch.manual_seed(0)
    q = torch.randn(RUNS, SAMPLES, ACTIONS, dtype=torch.float64, requires_grad=True)
    actions = torch.randint(ACTIONS, (RUNS, SAMPLES, 1))
    target = 2 * torch.randn(RUNS, SAMPLES, dtype=torch.float64)
    loss = td_loss(q.gather(-1, actions)[..., 0], target)
    slope, losses = td_slope(q, actions, target)
    torch.testing.assert_close(losses, loss)
    torch.testing.assert_close(slope, torch.autograd.grad(loss.sum(), q)[0])
