"""Replay and EWC: memories that need labels, against brute force and cases worked by hand."""

import collections

import pytest
import torch
from torch import nn

from isorl.plasticity.methods import Batch, Learner, Methods, ewc
from isorl.plasticity.methods.ewc import EWC, fisher_diagonal
from isorl.plasticity.methods.replay import Replay
from tests.plasticity.methods.conftest import mlp


def started(method, network):
    optimizer = torch.optim.Adam(network.parameters())
    learner = Learner({"classifier": network}, optimizer, network, lambda: network, labelled=True)
    Methods({"it": method}).start(learner)
    return method


def batch_of(*numbers, allowed=None):
    """Samples that are recognised by their number; the label is its parity."""
    inputs = torch.tensor(numbers, dtype=torch.float32)[:, None]
    return Batch(lambda: inputs, torch.tensor(numbers) % 2, allowed)


def test_reservoir_keeps_every_sample_with_equal_probability():
    kept, size, samples, rounds = collections.Counter(), 4, 20, 3000
    method = started(Replay(size=size), mlp(1, 2))
    for _ in range(rounds):
        method._seen, method._inputs, method._labels = 0, None, None
        for start in range(0, samples, 5):
            method.after_update(batch_of(*range(start, start + 5)))
        kept.update(int(x) for x in method._inputs[:, 0])
        assert torch.equal(method._labels, method._inputs[:, 0].long() % 2)
    assert len(set(kept)) == samples
    expected = rounds * size / samples  # 600; four standard deviations are 88
    assert all(abs(count - expected) < 100 for count in kept.values()), kept


def test_replay_is_the_cross_entropy_of_what_it_holds():
    network = mlp(1, 3, 2)
    method = started(Replay(strength=0.5), network)
    assert method.loss(batch_of(1)) is None  # nothing to remember yet
    method.after_update(batch_of(7, 7))
    logits = network(torch.tensor([[7.0]]))
    assert method.loss(batch_of(1, 2, 3)).item() == pytest.approx(-0.5 * logits.log_softmax(1)[0, 1].item())


def test_replayed_samples_keep_the_classes_of_their_own_task():
    network = mlp(1, 3, 4)
    method = started(Replay(size=8), network)
    method.after_update(batch_of(0, 1, allowed=torch.tensor([True, True, False, False])))
    method.loss(batch_of(2, 3, allowed=torch.tensor([False, False, True, True]))).backward()
    head = network[1].weight.grad
    assert head[:2].abs().sum() > 0
    assert (head[2:] == 0).all()


@pytest.mark.parametrize("allowed", [None, torch.tensor([True, False, True])])
def test_fisher_diagonal_against_one_gradient_at_a_time(allowed):
    network, x = mlp(4, 5, 3, activation=nn.Tanh), torch.randn(20, 4)
    expected = [torch.zeros_like(p) for p in network.parameters()]
    for sample in x:
        logits = network(sample[None])[0]
        logits = logits if allowed is None else logits.masked_fill(~allowed, -torch.inf)
        log_p = logits.log_softmax(0)
        for y in range(3):
            if allowed is None or allowed[y]:
                gradients = torch.autograd.grad(log_p[y], list(network.parameters()), retain_graph=True)
                for total, gradient in zip(expected, gradients, strict=True):
                    total += log_p[y].exp().detach() * gradient.square() / len(x)
    found = fisher_diagonal(network, x, allowed)
    for (name, _), reference in zip(network.named_parameters(), expected, strict=True):
        torch.testing.assert_close(found[name], reference, rtol=1e-4, atol=1e-7)


def test_fisher_diagonal_in_parts_is_the_same(monkeypatch):
    network, x = mlp(4, 5, 3, activation=nn.Tanh), torch.randn(20, 4)
    whole = fisher_diagonal(network, x, None)
    monkeypatch.setattr(ewc, "HELD", 1)
    for name, value in fisher_diagonal(network, x, None).items():
        torch.testing.assert_close(value, whole[name])


def test_ewc_by_hand():
    """Two classes, logits (w, 0) for x = 1, w = 0: p = 1/2, F_w = p (1 - p) = 1/4."""
    network = nn.Linear(1, 2, bias=False)
    nn.init.zeros_(network.weight)
    method = started(EWC(strength=8.0, decay=0.5), network)
    assert method.loss(batch_of(1)) is None
    method.after_update(batch_of(1, 1))
    method.on_switch()
    assert torch.allclose(method._fisher["weight"], torch.tensor([[0.25], [0.25]]))
    assert method.loss(batch_of(1)) == 0
    with torch.no_grad():
        network.weight[0] = 0.5
    assert method.loss(batch_of(1)).item() == pytest.approx(8 / 2 * 0.25 * 0.5**2)
    with torch.no_grad():
        network.weight[0] = 0.0
    method.after_update(batch_of(1))
    method.on_switch()  # F <- 0.5 * 0.25 + 0.25
    assert torch.allclose(method._fisher["weight"], torch.full((2, 1), 0.375))


def test_ewc_looks_at_the_newest_samples():
    method = started(EWC(samples=3), mlp(1, 2))
    for numbers in ([1, 2], [3, 4], [5, 6]):
        method.after_update(batch_of(*numbers))
    assert torch.cat(method._recent)[-3:, 0].tolist() == [4, 5, 6]
    assert len(method._recent) == 2


@pytest.mark.parametrize("method", [Replay(), EWC()])
def test_a_learner_without_labels_is_refused(method):
    network = mlp(1, 2)
    learner = Learner({"q": network}, torch.optim.Adam(network.parameters()), network, lambda: network)
    with pytest.raises(ValueError, match="'it' learns from labels, which only agent=classifier is given"):
        Methods({"it": method}).start(learner)
