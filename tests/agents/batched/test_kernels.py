"""Networks in numpy answer and learn as torch's do."""

import numpy as np
import pytest
import torch
from torch import nn

from isorl.agents.batched.kernels import KERNELS, NumpyMLP
from isorl.plasticity import NetworkSpec, build_mlp
from isorl.plasticity.networks.activations import ACTIVATIONS

KNOWN = sorted(set(ACTIVATIONS) - {"prelu"})


def network_of(activation, layer_norm=False):
    torch.manual_seed(0)
    body = build_mlp(5, NetworkSpec((16, 16), activation, layer_norm=layer_norm))
    return nn.Sequential(body, nn.Linear(16, 3))


@pytest.mark.parametrize("activation", KNOWN)
def test_answers_and_follows_the_weights(activation):
    network = nn.Sequential(nn.Flatten(), network_of(activation))
    x, numpy = torch.randn(8, 5), NumpyMLP(network)
    for _ in range(2):
        np.testing.assert_allclose(numpy(x.numpy()), network(x).detach().numpy(), rtol=1e-5, atol=1e-6)
        with torch.no_grad():
            network[1][1].weight.add_(1)


@pytest.mark.parametrize("activation", KNOWN)
@pytest.mark.parametrize("layer_norm", [False, True], ids=["plain", "layer_norm"])
def test_gradients_are_autograds(activation, layer_norm):
    """Of six networks at once, in two by three; also where units are equal, and where they are zero."""
    networks = [network_of(activation, layer_norm) for _ in range(6)]
    for number, each in enumerate(networks):
        for parameter in each.parameters():
            parameter.data += 0.1 * number * torch.randn_like(parameter)
        each[0][0].weight.data[:2] = 0
    columns = [torch.stack(list(p)).detach() for p in zip(*(n.parameters() for n in networks), strict=True)]
    parameters = [column.unflatten(0, (2, 3)).numpy() for column in columns]
    gradients = [np.full_like(column, np.nan) for column in parameters]
    numpy = NumpyMLP(networks[0], parameters, gradients)
    x, slope = torch.randn(6, 8, 5, requires_grad=True), torch.randn(6, 8, 3)

    values = numpy.forward_with_cache(x.detach().unflatten(0, (2, 3)).numpy())
    by_input = numpy.backward(slope.unflatten(0, (2, 3)).numpy(), values)
    answers = torch.stack([network(row) for network, row in zip(networks, x, strict=True)])
    np.testing.assert_allclose(values[-1].reshape(6, 8, 3), answers.detach().numpy(), rtol=1e-4, atol=1e-5)
    answers.backward(slope)
    np.testing.assert_allclose(by_input.reshape(6, 8, 5), x.grad.numpy(), rtol=1e-4, atol=1e-5)
    for ours, *theirs in zip(gradients, *(network.parameters() for network in networks), strict=True):
        expected = torch.stack([parameter.grad for parameter in theirs]).numpy()
        np.testing.assert_allclose(ours.reshape(expected.shape), expected, rtol=1e-4, atol=1e-5)


def test_the_input_of_the_first_layer_needs_no_gradient():
    numpy = NumpyMLP(
        network_of("relu"), *[[np.ones(p.shape, np.float32) for p in network_of("relu").parameters()]] * 2
    )
    values = numpy.forward_with_cache(np.ones((8, 5), np.float32))
    assert numpy.backward(np.ones((8, 3), np.float32), values, needs_input_grad=False).shape == (8, 16)


def test_every_layer_is_tested():
    built = {type(module) for name in KNOWN for module in network_of(name).modules()}
    assert set(KERNELS) - {nn.Flatten} <= built


def test_refuses_layers_that_it_does_not_know():
    with pytest.raises(ValueError, match="PReLU"):
        NumpyMLP(build_mlp(4, NetworkSpec((8,), "prelu")))
    with pytest.raises(ValueError, match="IsometricLinear"):
        NumpyMLP(build_mlp(4, NetworkSpec((8,), "maxmin", isometry="hard")))
