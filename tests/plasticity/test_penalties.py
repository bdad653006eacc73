import pytest
import torch
from torch import nn

from isorl.plasticity import (
    NetworkSpec,
    build_mlp,
    build_nature_cnn,
    gram_penalty,
    jacobian_penalty,
    module_gram_penalty,
)


def layer_jacobians(network, x):
    """Per layer of an MLP the Jacobian of activation(layer(input)) at each sample, by autograd."""
    found = []
    for linear, activation in zip(network[::2], network[1::2], strict=True):
        layer = nn.Sequential(linear, activation)
        found.append(torch.func.vmap(torch.func.jacrev(layer))(x))
        x = layer(x).detach()
    return found


def finite_difference(f, parameter, index, h=1e-6):
    flat = parameter.data.view(-1)
    flat[index] += h
    up = f().item()
    flat[index] -= 2 * h
    down = f().item()
    flat[index] += h
    return (up - down) / (2 * h)


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (4, 4), (4, 2, 3, 3)])
def test_gram_penalty_and_its_closed_form(shape, device):
    W = torch.randn(shape, dtype=torch.double, device=device, requires_grad=True)
    R = gram_penalty(W, 2.0)
    sigma = torch.linalg.svdvals(W.detach().flatten(1))
    torch.testing.assert_close(R.detach(), (sigma**2 - 2).square().sum())
    (gradient,) = torch.autograd.grad(R, W)
    rows = W.detach().flatten(1)
    closed = 4 * (rows @ rows.mT @ rows - 2 * rows)
    torch.testing.assert_close(gradient.flatten(1), closed)
    assert finite_difference(lambda: gram_penalty(W, 2.0), W, 3) == pytest.approx(
        gradient.view(-1)[3].item(), rel=1e-5
    )


@pytest.mark.parametrize("by_rows", [False, True])
@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 2, 3, 3), (130, 70)])
def test_the_gradient_is_autograds(shape, by_rows):
    torch.manual_seed(0)
    W = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    matrix = W.flatten(1)
    G = matrix @ matrix.mT if by_rows or len(matrix) <= matrix.shape[1] else matrix.mT @ matrix
    plain = (G - 2.0 * torch.eye(len(G), dtype=torch.float64)).square().sum()
    R = gram_penalty(W, 2.0, by_rows)
    torch.testing.assert_close(R, plain)
    torch.testing.assert_close(torch.autograd.grad(3 * R, W), torch.autograd.grad(3 * plain, W))


def test_gram_penalty_of_a_module_leaves_heads_alone():
    network = nn.Sequential(build_mlp(4, NetworkSpec((6, 6))), nn.Linear(6, 2))
    expected = gram_penalty(network[0][0].weight) + gram_penalty(network[0][2].weight)
    torch.testing.assert_close(module_gram_penalty(network, heads=["1"]), expected)
    with pytest.raises(ValueError, match="no hidden weight"):
        module_gram_penalty(nn.LayerNorm(3))


@pytest.mark.parametrize("activation", ["relu", "tanh", "maxmin"])
def test_the_exact_jacobian_penalty_is_the_definition(activation, device):
    network = build_mlp(5, NetworkSpec((6, 4), activation)).double().to(device)
    x = torch.randn(7, 5, dtype=torch.double, device=device)
    expected = torch.stack(
        [(torch.linalg.svdvals(J) - 1).square().mean() for J in layer_jacobians(network, x)]
    ).mean()
    torch.testing.assert_close(jacobian_penalty(network, x), expected)


@pytest.mark.parametrize("projections", [None, 3])
def test_its_gradient_by_finite_differences(projections):
    """Tanh, where the slopes carry gradient too. One layer: deeper ones see the input of a moved layer."""
    network = build_mlp(4, NetworkSpec((5,), "tanh")).double()
    x = torch.randn(6, 4, dtype=torch.double)
    jacobian_penalty(network, x, projections).backward()
    for parameter in network.parameters():
        found = parameter.grad.view(-1)[2].item()
        assert found == pytest.approx(
            finite_difference(lambda: jacobian_penalty(network, x, projections), parameter, 2), rel=1e-4
        )


@pytest.mark.parametrize("widths", [(8,), (3,)])
@pytest.mark.parametrize("activation", ["relu", "maxmin", "tanh"])
def test_projections_are_unbiased(widths, activation):
    widths = tuple(w + w % 2 for w in widths)
    network = build_mlp(5, NetworkSpec(widths, activation)).double()
    x = torch.randn(10, 5, dtype=torch.double)
    (J,) = layer_jacobians(network, x)
    expected = (torch.linalg.svdvals(J).square() - 1).square().mean() / 4
    estimates = torch.stack(
        [jacobian_penalty(network, x, 4, torch.Generator().manual_seed(seed)).detach() for seed in range(400)]
    )
    error = estimates.std() / len(estimates) ** 0.5
    assert abs(estimates.mean() - expected) < 4 * error
    assert error < 0.05 * expected + 1e-3


def test_near_isometry_both_forms_agree():
    network = build_mlp(6, NetworkSpec((6,), "maxmin", isometry="soft")).double()
    with torch.no_grad():
        network[0].weight *= 1.01
    x = torch.randn(50, 6, dtype=torch.double)
    exact = jacobian_penalty(network, x).item()
    assert exact == pytest.approx(1e-4, rel=1e-3)
    assert jacobian_penalty(network, x, 200).item() == pytest.approx(exact, rel=0.1)


def test_a_masked_row_feels_nothing():
    network = build_mlp(4, NetworkSpec((6,)))
    network[0].bias.data[2] = -100
    for projections in (None, 5):
        network.zero_grad()
        jacobian_penalty(network, torch.randn(9, 4), projections).backward()
        assert not network[0].weight.grad[2].any()
        assert network[0].weight.grad[0].any()


def test_convolutions_and_norms_are_covered():
    network = build_nature_cnn((1, 36, 36), NetworkSpec(layer_norm=True), 16)
    penalty = jacobian_penalty(network, torch.rand(2, 1, 36, 36), projections=1)
    penalty.backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
    assert network[0].weight.grad.any()


def test_it_leaves_the_random_stream_and_the_mode_alone():
    network = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Dropout(0.5), nn.Linear(3, 3), nn.Tanh())
    state = torch.get_rng_state()
    jacobian_penalty(network, torch.ones(2, 3), projections=2)
    assert torch.equal(state, torch.get_rng_state())
    assert network.training


def test_bad_input():
    with pytest.raises(ValueError, match="projections must be at least 1, or None"):
        jacobian_penalty(nn.Linear(2, 2), torch.ones(1, 2), projections=0)
    with pytest.raises(ValueError, match="no layer of the network is followed by an activation"):
        jacobian_penalty(nn.Linear(2, 2), torch.ones(1, 2))
