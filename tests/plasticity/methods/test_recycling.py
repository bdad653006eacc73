import math

import numpy as np
import pytest
import torch
from torch import nn

from isorl.plasticity.methods import Batch
from isorl.plasticity.methods.continual_backprop import ContinualBackprop, outgoing_magnitude
from isorl.plasticity.methods.recycling import Recycler
from isorl.plasticity.methods.redo import ReDo
from isorl.plasticity.methods.self_normalised_resets import SelfNormalisedResets
from isorl.plasticity.methods.structure import hidden_layers
from isorl.plasticity.networks.activations import CReLU
from tests.plasticity.methods.conftest import Trained, cnn, mlp


def kill(layer, units):
    """Units that no input wakes."""
    with torch.no_grad():
        layer.bias[units] = -1e4


def dormant_by_hand(h, tau):
    """Sokar et al. 2023, eq. 1, loop by loop: h (samples, units)."""
    means = [np.mean([abs(value) for value in column]) for column in h.T]
    return {i for i, mean in enumerate(means) if mean / (sum(means) / len(means)) <= tau}


@pytest.mark.parametrize("tau", [0.0, 0.1, 0.6])
def test_redo_finds_the_dormant_units_of_its_definition(tau):
    network, x = cnn(), torch.randn(16, 2, 6, 6)
    kill(network[0][0], [1])
    trained = Trained(ReDo(tau=tau, every=1), q=network)
    expected = []
    for end in (2, 4, 7):  # convolutions: a unit is a channel, its samples all images and pixels
        h = network[0][:end](x).detach()
        h = h.movedim(1, -1).reshape(-1, h.shape[1]) if h.ndim == 4 else h
        expected.append(dormant_by_hand(h.numpy(), tau))
    before = [layer.maker.weight.detach().clone() for layer in hidden_layers({"q": network})]
    trained.methods.after_update(_batch(x))
    layers = hidden_layers({"q": network})
    for layer, old, dormant, next_dormant in zip(
        layers, before, expected, [*expected[1:], set()], strict=True
    ):
        fresh = (layer.maker.weight != old).flatten(1).all(1)
        assert {i for i in range(layer.units) if fresh[i]} == dormant
        (reader,) = layer.readers
        silent = (layer.columns(reader.weight) == 0).all(3).all(1)  # (O, U)
        for o in set(range(len(silent))) - next_dormant:  # a fresh reader has fresh weights from everyone
            assert set(silent[o].nonzero()[:, 0].tolist()) == dormant
    assert 1 in expected[0]


def _batch(x):
    return Batch(lambda: x)


@pytest.mark.parametrize("make", [lambda: (mlp(4, 6, 5, 2), (16, 4)), lambda: (cnn(), (16, 2, 6, 6))])
def test_redo_keeps_the_function_where_units_are_exactly_dormant(make):
    network, shape = make()
    x = torch.randn(shape)
    trained = Trained(ReDo(tau=0.0, every=1000), q=network)
    for _ in range(3):
        trained.step(x)
    for layer in hidden_layers({"q": network}):
        kill(layer.maker, [0, 2])
    expected = network(x)
    old = {layer.name: layer.maker.weight.detach().clone() for layer in hidden_layers({"q": network})}
    redo = next(iter(trained.methods))
    redo._updates = 999
    trained.methods.after_update(_batch(x))
    assert torch.equal(network(x), expected)
    for layer in hidden_layers({"q": network}):
        moments = trained.optimizer.state[layer.maker.weight]
        assert (layer.maker.weight[[0, 2]] != old[layer.name][[0, 2]]).any()
        assert (layer.maker.bias[[0, 2]] == 0).all()
        for name in ("exp_avg", "exp_avg_sq"):
            assert (moments[name][[0, 2]] == 0).all()
            for reader in layer.readers:
                assert (layer.columns(trained.optimizer.state[reader.weight][name])[:, :, [0, 2]] == 0).all()


def test_recycled_weights_have_the_scale_of_the_initial_ones():
    network = mlp(100, 300, 10, 1)
    initial = network[0][0].weight.detach().clone()
    recycler = Recycler(Trained(q=network).learner, "redo")
    recycler.recycle(0, torch.arange(300))
    drawn = network[0][0].weight.detach()
    assert float(drawn.std()) == pytest.approx(float(initial.std()), rel=0.02)
    assert float(drawn.abs().max()) <= 0.1 + 1e-3  # torch's own bound, 1 / sqrt(I)


def two_units():
    """h = relu([1, 3] x + [0, 0]); y = 2 h_0 - 1 h_1."""
    network = mlp(1, 2, 1)
    with torch.no_grad():
        network[0][0].weight[:, 0] = torch.tensor([1.0, 3.0])
        network[0][0].bias.zero_()
        network[1].weight[0] = torch.tensor([2.0, -1.0])
        network[1].bias.zero_()
    return network


def test_continual_backprop_by_hand():
    """x = 1: |h| |w| is 1 * 2 = 2 and 3 * 1 = 3; with decay 0.5, u = 1, 1.5, then 1.5, 2.25; corrected 2, 3."""
    network = two_units()
    method = ContinualBackprop(replacement_rate=0.25, maturity=1, decay=0.5)
    trained = Trained(method, q=network)
    x = torch.ones(4, 1)
    trained.methods.after_update(_batch(x))
    assert method._utility[0].tolist() == [1.0, 1.5]
    assert method._due == [0.0]  # nobody is older than one update
    trained.methods.after_update(_batch(x))
    assert method._utility[0].tolist() == [1.5, 2.25]
    assert method._due == [0.5]  # a quarter of two mature units
    trained.methods.after_update(_batch(x))
    assert method._due == [0.0]  # the other half: unit 0, of utility 2 against 3, is replaced
    assert method._age[0].tolist() == [0.0, 3.0]
    assert network[1].weight[0].tolist() == [0.0, -1.0]
    assert network[1].bias.item() == pytest.approx(2.0)  # what unit 0 gave on average: 2 * 1
    trained.methods.after_update(_batch(x))
    assert method._due == [0.25]  # unit 0 is young again


def test_continual_backprop_keeps_the_function_where_the_replaced_unit_was_constant():
    network, x = cnn(), torch.rand(8, 2, 6, 6)
    with torch.no_grad():
        network[0][2].weight[1] = 0
        network[0][2].bias.copy_(
            torch.tensor([1, 1e-3, 1, 1])
        )  # unit 1 is constant and useless: it goes first
    method = ContinualBackprop(replacement_rate=0.0, maturity=0)
    trained = Trained(method, q=network)
    for _ in range(3):
        trained.methods.after_update(_batch(x))
    expected = network(x)
    method._due[1] = 1.0
    trained.methods.after_update(_batch(x))
    assert method._age[1].tolist() == [4, 0, 4, 4]
    torch.testing.assert_close(network(x), expected)


def test_continual_backprop_hands_on_each_copy_of_a_unit_by_its_own_weight():
    """Of CReLU's (relu(h), relu(-h)) a constant h = 1 gives (1, 0): only the first weight's share is handed on."""
    network = nn.Sequential(nn.Sequential(nn.Linear(1, 2), CReLU()), nn.Linear(4, 1))
    with torch.no_grad():
        network[0][0].weight.copy_(torch.tensor([[0.0], [3.0]]))
        network[0][0].bias.copy_(torch.tensor([1.0, 0.0]))
        network[1].weight.copy_(torch.tensor([[0.1, 5.0, -7.0, 5.0]]))
    method = ContinualBackprop(replacement_rate=0.0, maturity=0)
    trained, x = Trained(method, q=network), torch.randn(8, 1)
    for _ in range(3):
        trained.methods.after_update(_batch(x))
    expected = network(x)
    method._utility[0][0] = 0.0
    method._due[0] = 1.0
    trained.methods.after_update(_batch(x))
    assert method._age[0].tolist() == [0, 4]
    torch.testing.assert_close(network(x), expected)


def test_outgoing_magnitude_sums_over_all_readers():
    body = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    actor, critic = nn.Linear(2, 1), nn.Linear(2, 1)
    with torch.no_grad():
        actor.weight.copy_(torch.tensor([[1.0, -2.0]]))
        critic.weight.copy_(torch.tensor([[-3.0, 4.0]]))
    layer = hidden_layers({"actor": nn.Sequential(body, actor), "critic": nn.Sequential(body, critic)})[0]
    assert outgoing_magnitude(layer).tolist() == [4.0, 6.0]


def test_the_number_of_mature_units_is_known_without_looking():
    torch.manual_seed(1)
    method = ContinualBackprop(replacement_rate=0.03, maturity=5, decay=0.9)
    trained = Trained(method, q=mlp(3, 20, 1))
    for _ in range(60):
        trained.methods.after_update(_batch(torch.randn(4, 3)))
        assert method._mature(0) == int((method._age[0] > 5).sum())
    assert method._births[0]


def test_self_normalised_resets_by_hand():
    """A unit that never fired has p = 1 / 100: it goes at the first a with a log(0.99) <= log(0.01), a = 459."""
    network = mlp(2, 3, 1)
    kill(network[0][0], [1])
    method = SelfNormalisedResets(threshold=0.01, prior=100, every=1)
    trained = Trained(method, q=network)
    x = torch.randn(32, 2)
    assert math.ceil(math.log(0.01) / math.log(0.99)) == 459
    for _ in range(458):
        trained.methods.after_update(_batch(x))
    assert network[0][0].bias[1] == -1e4
    trained.methods.after_update(_batch(x))
    assert network[0][0].bias[1] == 0
    assert method._silence[0][1] == 0


def test_a_unit_that_fired_often_is_replaced_sooner_than_one_that_fired_rarely():
    network = mlp(1, 2, 1)
    with torch.no_grad():
        network[0][0].weight.fill_(1.0)
        network[0][0].bias.copy_(torch.tensor([0.0, -2.0]))  # unit 1 fires only for x > 2
    method = SelfNormalisedResets(threshold=0.01, prior=2, every=1)
    trained = Trained(method, q=network)
    for step in range(100):
        trained.methods.after_update(_batch(torch.full((1, 1), 3.0 if step % 4 == 0 else 1.0)))
    silent = torch.full((1, 1), -1.0)
    gone = []
    for _ in range(40):
        before = network[0][0].weight.detach().clone()
        trained.methods.after_update(_batch(silent))
        gone += [i for i in range(2) if network[0][0].weight[i] != before[i]]
    assert gone[0] == 0


@pytest.mark.parametrize("period", [2, 5, 20])
def test_a_unit_that_is_silent_as_always_is_kept(period):
    """It fires once in `period` updates: silences that long are what its own past says."""
    network = mlp(1, 2, 1)
    with torch.no_grad():
        network[0][0].weight.copy_(torch.tensor([[1.0], [-1.0]]))  # unit 1 answers where unit 0 is silent
        network[0][0].bias.fill_(0.0)
    method = SelfNormalisedResets(threshold=0.01, prior=100, every=1)
    trained = Trained(method, q=network)
    for update in range(100 * period):
        trained.methods.after_update(_batch(torch.full((1, 1), 1.0 if update % period == 0 else -1.0)))
    fired, last_silence = 100, period - 1
    assert (int(method._firings[0][0]), int(method._observed[0][0])) == (fired, 100 * period - last_silence)
    assert network[0][0].weight[0] == 1.0
    p = (fired + 1) / (100 * period - last_silence + 100)
    silent = torch.full((1, 1), -1.0)
    for _ in range(math.ceil(math.log(0.01) / math.log1p(-p)) - last_silence - 1):
        trained.methods.after_update(_batch(silent))
    assert network[0][0].weight[0] == 1.0
    trained.methods.after_update(_batch(silent))
    assert network[0][0].weight[0] != 1.0


def test_tanh_units_are_never_silent():
    network = mlp(2, 3, 1, activation=nn.Tanh)
    trained = Trained(SelfNormalisedResets(prior=2, threshold=0.9, every=1), q=network)
    before = network[0][0].weight.detach().clone()
    for _ in range(50):
        trained.methods.after_update(_batch(torch.randn(4, 2)))
    assert torch.equal(network[0][0].weight, before)
