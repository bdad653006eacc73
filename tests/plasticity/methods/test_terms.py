"""Terms of the loss, against independent references and cases worked by hand."""

import copy

import pytest
import torch
from torch import nn

from isorl.plasticity.methods.feature_rank import FeatureRank
from isorl.plasticity.methods.gram import Gram
from isorl.plasticity.methods.jacobian import Jacobian
from isorl.plasticity.methods.l2 import L2
from isorl.plasticity.methods.l2_init import L2Init
from isorl.plasticity.methods.parseval import Parseval
from isorl.plasticity.methods.wasserstein_init import WassersteinInit
from isorl.plasticity.networks.spec import NetworkSpec
from tests.plasticity.methods.conftest import Trained, mlp, term


def shift(network, amount):
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(amount)


def test_l2_init_by_hand():
    network = mlp(2, 3, 1)  # 6 + 3 + 3 + 1 = 13 numbers
    method = L2Init(strength=0.5)
    trained = Trained(method, q=network)
    assert method.loss(None) == 0
    shift(network, 0.1)
    assert method.loss(None).item() == pytest.approx(0.5 * 13 * 0.01)
    method.loss(None).backward()
    assert torch.allclose(network[1].bias.grad, torch.tensor(2 * 0.5 * 0.1))
    assert trained.methods.state_dict()["L2Init"]["_initial"][0].shape == (3, 2)


def test_shared_parameters_count_once():
    body = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    networks = {"actor": nn.Sequential(body, nn.Linear(3, 2)), "critic": nn.Sequential(body, nn.Linear(3, 1))}
    method = L2Init(strength=1.0)
    Trained(method, **networks)
    shift(body, 1.0)
    assert method.loss(None).item() == pytest.approx(9, rel=1e-5)


def test_wasserstein_init_lets_weights_change_places():
    network, method = mlp(2, 3, 1), WassersteinInit(strength=2.0)
    Trained(method, q=network)
    with torch.no_grad():
        network[0][0].weight.copy_(network[0][0].weight.flip(0, 1))
    assert method.loss(None) == 0
    shift(network, 0.1)
    assert method.loss(None).item() == pytest.approx(2 * 13 * 0.01, rel=1e-5)


def test_coupled_l2_is_torchs_weight_decay_of_twice_the_strength():
    ours, theirs, x = mlp(3, 4, 1), None, torch.randn(5, 3)
    theirs = copy.deepcopy(ours)
    trained = Trained(L2(strength=0.05), q=ours)
    twin = Trained(q=theirs, optimizer=lambda p, lr: torch.optim.Adam(p, lr=lr, weight_decay=0.1))
    for _ in range(5):
        trained.step(x)
        twin.step(x)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_decoupled_l2_is_adamw():
    cls, options = L2(strength=0.05, decoupled=True).optimizer(torch.optim.Adam, {"eps": 1e-5})
    assert cls is torch.optim.AdamW
    assert options == {"eps": 1e-5, "weight_decay": 0.05}
    with pytest.raises(ValueError, match="the same thing"):
        L2(decoupled=True).optimizer(torch.optim.AdamW, {"weight_decay": 0.01})


def scaled_identity(rows, columns, scale):
    network = mlp(columns, rows, 1)
    with torch.no_grad():
        network[0][0].weight.copy_(scale * torch.eye(rows, columns))
    return network


def with_target(method):
    method.network(NetworkSpec())
    return method


def test_gram_by_hand_and_without_the_head():
    """sigma = 3 and s = 2: (9 - 2)^2 for each of min(O, I) = 2 singular values."""
    for rows, columns in ((2, 2), (2, 5), (5, 2)):
        network = scaled_identity(rows, columns, 3.0)
        assert term(with_target(Gram(strength=0.5)), q=network).item() == pytest.approx(0.5 * 2 * 49)


def test_parseval_differs_from_gram_where_rows_outnumber_columns():
    """The three rows that cannot be orthogonal to the others cost (0 - 2)^2 each."""
    assert term(Parseval(strength=1.0), q=scaled_identity(2, 5, 3.0)).item() == pytest.approx(2 * 49)
    assert term(Parseval(strength=1.0), q=scaled_identity(5, 2, 3.0)).item() == pytest.approx(2 * 49 + 3 * 4)


def test_parseval_is_the_released_formula():
    network = mlp(7, 4, 6, 1)
    expected = sum(
        torch.norm(w @ w.T - 2 * torch.eye(len(w))) ** 2 for w in (network[0][0].weight, network[0][2].weight)
    )
    torch.testing.assert_close(term(Parseval(strength=1.0), q=network), expected)


def test_gram_takes_its_target_from_the_network():
    method = Gram(strength=1.0)
    method.network(NetworkSpec(activation="maxmin"))
    assert method._target == 1.0
    method.network(NetworkSpec(activation="relu"))
    assert method._target == pytest.approx(2.0)
    assert with_target(Gram(target=3.0))._target == 3.0


def test_jacobian_is_zero_on_an_isometry():
    network = nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.Identity()), nn.Linear(3, 1))
    network[0][1] = nn.LeakyReLU(1.0)
    with torch.no_grad():
        nn.init.orthogonal_(network[0][0].weight)
    x = torch.randn(4, 3)
    assert term(Jacobian(strength=1.0, projections=0), x, q=network).item() == pytest.approx(0, abs=1e-9)
    with torch.no_grad():
        network[0][0].weight.mul_(3)
    assert term(Jacobian(strength=1.0, projections=0), x, q=network).item() == pytest.approx(4, rel=1e-5)


def test_feature_rank_by_hand():
    network, x = mlp(3, 4, 2), torch.randn(6, 3)
    method = FeatureRank(strength=2.0, scale=1.0, heads=5)
    trained = Trained(method, q=network)
    assert trained.methods.add_loss(torch.zeros(()), _batch(x)) == 0  # nothing has moved
    heads = method._heads[0]
    with torch.no_grad():
        heads.bias.add_(0.5)
    assert trained.methods.add_loss(torch.zeros(()), _batch(x)).item() == pytest.approx(2 * 0.25)
    before = heads.weight.detach().clone()
    trained.step(x)
    assert not torch.equal(heads.weight, before)  # the optimizer trains them
    assert not any(p.requires_grad for p in method._initial.parameters())


def _batch(x):
    from isorl.plasticity.methods import Batch

    return Batch(lambda: x)
