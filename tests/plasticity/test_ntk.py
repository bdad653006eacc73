import pytest
import torch
from torch import nn

from isorl.plasticity import NetworkSpec, build_mlp, build_nature_cnn, empirical_ntk


def by_autograd(network, x):
    """The definition: one backward pass per entry of f, over all parameters."""
    f = network(x).flatten(1)
    J = [
        torch.cat(
            [g.flatten() for g in torch.autograd.grad(f[n, c], list(network.parameters()), retain_graph=True)]
        )
        for n in range(f.shape[0])
        for c in range(f.shape[1])
    ]
    return torch.stack(J) @ torch.stack(J).T


def by_jacrev(network, x):
    parameters = dict(network.named_parameters())

    def f(parameters, x):
        return torch.func.functional_call(network, parameters, (x[None],))[0]

    J = torch.func.vmap(torch.func.jacrev(f), (None, 0))(parameters, x)
    J = torch.cat([j.flatten(2) for j in J.values()], 2).flatten(0, 1)
    return J @ J.T


@pytest.mark.parametrize("oracle", [by_autograd, by_jacrev])
@pytest.mark.parametrize("activation", ["relu", "tanh", "maxmin"])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_mlp(oracle, activation, layer_norm, device):
    body = build_mlp(5, NetworkSpec((12, 8), activation, layer_norm))
    network = nn.Sequential(body, nn.Linear(8, 3)).double().to(device)
    x = torch.randn(4, 5, dtype=torch.double, device=device)
    torch.testing.assert_close(empirical_ntk(network, x), oracle(network, x))


@pytest.mark.parametrize("isometry", ["none", "soft", "projected"])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_cnn(isometry, layer_norm, device):
    if layer_norm and isometry == "projected":
        pytest.skip("refused by NetworkSpec")
    body = build_nature_cnn((2, 37, 40), NetworkSpec((), "maxmin", layer_norm, isometry), 16)
    network = nn.Sequential(body, nn.Linear(16, 3)).double().to(device)
    x = torch.rand(3, 2, 37, 40, dtype=torch.double, device=device)
    torch.testing.assert_close(empirical_ntk(network, x), by_autograd(network, x))


def test_single_precision_agrees_to_1e_5():
    network = nn.Sequential(build_mlp(16, NetworkSpec((128,) * 4)), nn.Linear(128, 4))
    x = torch.randn(16, 16)
    K, expected = empirical_ntk(network, x), by_jacrev(network, x)
    assert (K - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_linear_model_by_hand():
    """F(x) = w x + b has K = x x' + 1 for equal outputs and 0 across outputs."""
    x = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    K = empirical_ntk(nn.Linear(2, 2), x).reshape(2, 2, 2, 2)
    assert torch.equal(K[:, 0, :, 0], x @ x.T + 1)
    assert not K[:, 0, :, 1].any()


def test_a_layer_used_twice_and_positions():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.act, self.head = nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2, bias=False)

        def forward(self, x):
            return self.head(self.act(self.layer(self.act(self.layer(x))))).mean(1)

    network = Twice().double()
    x = torch.randn(3, 5, 4, dtype=torch.double)
    torch.testing.assert_close(empirical_ntk(network, x), by_autograd(network, x))


def test_norms_with_and_without_affine_parameters():
    layers = [nn.Conv2d(1, 4, 3, padding=1, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()]
    layers += [
        nn.LayerNorm(16, elementwise_affine=False),
        nn.Linear(16, 6),
        nn.RMSNorm(6),
        nn.Tanh(),
        nn.Linear(6, 2),
    ]
    network = nn.Sequential(*layers).double()
    network(torch.randn(8, 1, 4, 4, dtype=torch.double))  # running statistics that differ from 0 and 1
    x = torch.randn(3, 1, 4, 4, dtype=torch.double)
    K = empirical_ntk(network, x)
    torch.testing.assert_close(K, by_autograd(network.eval(), x))


@pytest.mark.parametrize("frozen", ["0.0", "2.0", "all but a bias"])
def test_frozen_parameters_are_no_part_of_the_kernel(frozen):
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.LayerNorm(4), nn.Linear(4, 2)).double()
    network.requires_grad_(False)
    learn = [network[3].bias] if frozen == "all but a bias" else [
        p for name, p in network.named_parameters() if not name.startswith(frozen[0])
    ]  # fmt: skip
    for parameter in learn:
        parameter.requires_grad_(True)
    x = torch.randn(3, 3, dtype=torch.double)
    f = network(x).flatten()
    rows = [
        torch.autograd.grad(value, learn, retain_graph=True, allow_unused=True, materialize_grads=True)
        for value in f
    ]
    J = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    torch.testing.assert_close(empirical_ntk(network, x), J @ J.T)
    assert [p.requires_grad for p in network.parameters()].count(True) == len(learn)


def test_of_a_network_that_is_frozen_as_a_whole_the_kernel_is_over_everything():
    network, x = build_mlp(3, NetworkSpec((4, 2))), torch.randn(2, 3)
    K = empirical_ntk(network, x)
    network.requires_grad_(False)
    assert torch.equal(empirical_ntk(network, x), K)
