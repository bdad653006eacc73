import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from isorl.plasticity import NetworkSpec, build_mlp, build_nature_cnn, empirical_ntk
from tests.plasticity.conftest import Calls


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


def test_samples_that_are_exchanged_on_the_way_are_not_taken_for_one_another():
    def forward(self, x):
        return self.m[1](self.m[0](x.flip(0)).flip(0).tanh()) + self.m[2](x)

    network = Calls(forward, nn.Linear(4, 6), nn.Linear(6, 1), nn.Linear(4, 1)).double()
    x = torch.randn(2, 4, dtype=torch.double)
    torch.testing.assert_close(empirical_ntk(network, x), by_autograd(network, x))


def test_a_layer_that_reads_one_row_for_all_samples_is_no_layer_of_samples():
    network = Calls(
        lambda self, x: self.m[2](self.m[0](x) * self.m[1](self.row)),
        nn.Linear(4, 6), nn.Linear(5, 6), nn.Linear(6, 2),
    ).double()  # fmt: skip
    network.row = torch.randn(5, dtype=torch.double)  # as many numbers as there are samples
    x = torch.randn(5, 4, dtype=torch.double)
    torch.testing.assert_close(empirical_ntk(network, x), by_autograd(network, x))


def test_a_body_without_gradients_has_no_part_in_the_kernel():
    def forward(self, x):
        with torch.no_grad():
            h = self.m[0](x)
        return self.m[1](h)

    body = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.ReLU())
    network = Calls(forward, body, nn.Linear(6, 2)).double()
    x = torch.randn(5, 4, dtype=torch.double)
    h = body(x).detach()
    expected = torch.kron(h @ h.T + 1, torch.eye(2, dtype=torch.double))
    torch.testing.assert_close(empirical_ntk(network, x), expected)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_have_their_kernel_or_none(reentrant):
    network = Calls(
        lambda self, x: self.m[1](checkpoint(self.m[0], x, use_reentrant=reentrant)),
        nn.Sequential(nn.Linear(4, 6), nn.Tanh()), nn.Linear(6, 2),
    ).double()  # fmt: skip
    x = torch.randn(5, 4, dtype=torch.double)
    if reentrant:
        with pytest.raises(RuntimeError, match=r"incompatible with .grad\(\)"):
            empirical_ntk(network, x)
    else:
        torch.testing.assert_close(empirical_ntk(network, x), by_autograd(network, x))


def test_an_ensemble_in_one_pass():
    members = [nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double() for _ in range(3)]
    one_by_one = Calls(lambda self, x: sum(member(x) for member in self.m), *members)
    names, weights = zip(*torch.func.stack_module_state(members)[0].items(), strict=True)

    def forward(self, x):
        def member(weights):
            return torch.func.functional_call(self.m[0], dict(zip(names, weights, strict=True)), (x,))

        return torch.vmap(member)([*self.stacked]).sum(0)

    together = Calls(forward, copy.deepcopy(members[0]).requires_grad_(False))
    together.stacked = nn.ParameterList(weight.detach() for weight in weights)
    x = torch.randn(5, 4, dtype=torch.double)
    torch.testing.assert_close(empirical_ntk(together, x), by_autograd(one_by_one, x))


def test_hooks_on_gradients_do_nothing_to_the_kernel_and_stay():
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    x = torch.randn(5, 4, dtype=torch.double)
    expected, calls = by_autograd(network, x), []
    handle = network[0].weight.register_hook(lambda g: calls.append(1) or g * 0.1)
    torch.testing.assert_close(empirical_ntk(network, x), expected)
    assert not calls
    network(x).sum().backward()
    assert len(calls) == 1
    handle.remove()
    network(x).sum().backward()
    assert len(calls) == 1


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
