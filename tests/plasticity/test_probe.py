import pytest
import torch
from torch import nn

from isorl.plasticity import METRICS, NetworkSpec, build_mlp, diagnose
from isorl.plasticity.diagnostics.probe import Probe, slopes
from isorl.plasticity.diagnostics.record import NotMeasurableError, record
from isorl.plasticity.networks.activations import ACTIVATIONS, ELEMENTWISE
from tests.plasticity.conftest import Calls


def state_of(network):
    return (
        {name: value.clone() for name, value in network.state_dict().items()},
        [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in network.parameters()],
        [module.training for module in network.modules()],
        [getattr(module, "inplace", None) for module in network.modules()],
        [len(module._forward_hooks) for module in network.modules()],
        torch.get_rng_state(),
    )


def assert_same(before, after):
    for a, b in zip(before[0].values(), after[0].values(), strict=True):
        assert torch.equal(a, b)
    for (a, g), (b, h) in zip(before[1], after[1], strict=True):
        assert a == b
        assert (g is None and h is None) or torch.equal(g, h)
    assert before[2:5] == after[2:5]
    assert torch.equal(before[5], after[5])


@pytest.mark.parametrize("training", [True, False])
def test_a_probe_leaves_no_trace(training):
    layers = [nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(8, 2)]
    network = nn.Sequential(*layers).train(training)
    network[0].bias.requires_grad_(False)
    network(torch.randn(5, 4)).sum().backward()
    network[3].eval()
    before = state_of(network)
    with torch.no_grad():
        values = diagnose(
            {"net": network}, torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), list(METRICS)
        )
    assert_same(before, state_of(network))
    assert all(value == value for value in values.values() if isinstance(value, float))


@pytest.mark.parametrize(
    "context", [torch.inference_mode, torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16)]
)
def test_it_measures_the_same_in_any_context(context):
    network = nn.Sequential(build_mlp(4, NetworkSpec((8, 8))), nn.Linear(8, 2))
    x = torch.randn(6, 4)
    expected = diagnose({"net": network}, x)
    with context():
        found = diagnose({"net": network}, x)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)


@pytest.mark.parametrize("was_set_up", [False, True])
def test_each_part_that_is_asked_for_alone_is_measured_undisturbed(was_set_up):
    network = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 2)).train()
    x = torch.randn(6, 4)
    probe, expected = Probe(network, x), Probe(network.eval(), x)
    network.train()
    if was_set_up:
        with probe.undisturbed():
            assert not network.training
    found = probe.ntk_eigenvalues, probe.feature_singular_values, probe.record.output
    assert network.training
    assert network[1].training
    network.eval()
    for ours, theirs in zip(
        found, (expected.ntk_eigenvalues, expected.feature_singular_values, network(x)), strict=True
    ):
        torch.testing.assert_close(ours.detach(), theirs.detach())


def test_layers_units_and_names_of_a_nested_network():
    body = nn.Sequential(
        nn.Conv2d(1, 4, 2), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 6), nn.Tanh()
    )
    recorded = record(nn.Sequential(body, nn.Linear(6, 2)), torch.randn(5, 1, 3, 3))
    assert [(layer.name, layer.path) for layer in recorded.layers] == [
        ("conv1", "0.0"),
        ("linear2", "0.4"),
        ("linear3", "1"),
    ]
    assert [type(layer.activation) for layer in recorded.layers] == [nn.ReLU, nn.Tanh, type(None)]
    assert recorded.layers[0].units().shape == (5 * 4, 4)
    assert recorded.features().shape == (5, 6)
    assert recorded.notes() == []


def test_in_place_activations_do_not_hide_what_they_overwrite():
    recorded = Probe(nn.Sequential(nn.Linear(3, 50), nn.ReLU(inplace=True)), torch.randn(20, 3)).record
    assert (recorded.layers[0].before[0] < 0).any()
    assert (recorded.layers[0].outputs[0] < 0).any()


@pytest.mark.parametrize(
    ("activation", "slope"),
    [
        (nn.ReLU(), lambda u: (u > 0).double()),
        (nn.Tanh(), lambda u: 1 - u.tanh() ** 2),
        (nn.LeakyReLU(0.1), lambda u: torch.where(u > 0, 1.0, 0.1)),
        (nn.PReLU(init=-0.5), lambda u: torch.where(u > 0, 1.0, 0.5)),
    ],
    ids=["relu", "tanh", "leaky_relu", "prelu"],
)
def test_slopes_of_elementwise_activations(activation, slope):
    u = torch.randn(7, 6, dtype=torch.double)
    torch.testing.assert_close(slopes(activation.double(), u), slope(u).double())


def test_slopes_make_the_layer_jacobian_also_where_units_mix():
    class CReLU(nn.Module):
        def forward(self, x):
            return torch.cat((x.relu(), (-x).relu()), -1)

    for network in (
        build_mlp(5, NetworkSpec((6,), "maxmin")),
        build_mlp(5, NetworkSpec((8,), "groupsort")),
        nn.Sequential(nn.Linear(5, 6), CReLU()),
        build_mlp(5, NetworkSpec((6,), "tanh")),
        build_mlp(5, NetworkSpec((6,))),
    ):
        network = network.double()
        x = torch.randn(1, 5, dtype=torch.double)
        J = torch.autograd.functional.jacobian(lambda v, net=network: net(v[None])[0], x[0])
        found = Probe(network, x).layer_jacobians["linear1"][0]
        torch.testing.assert_close(found.flip(0), torch.linalg.svdvals(J), atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_that_say_so_are_isometric(name):
    activation = ACTIVATIONS[name].build(-1).double()
    u = torch.randn(8, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    J = torch.autograd.functional.jacobian(lambda u: activation(u[None])[0], u)
    isometric = getattr(activation, "isometric", False) or isinstance(activation, nn.Identity)
    assert isometric == torch.allclose(J.T @ J, torch.eye(8, dtype=torch.double))


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("image", [False, True])
def test_every_activation_of_a_body_is_measured_right(name, image):
    """The layer's Jacobian by autograd, of an image at its one pixel."""
    features = torch.randn(1, 5, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    x = features[:, :, None, None] if image else features
    layer = nn.Conv2d(5, 8, 1) if image else nn.Linear(5, 8)
    network = nn.Sequential(layer, ACTIVATIONS[name].build(-3 if image else -1)).double()
    J = torch.autograd.functional.jacobian(lambda v: network(v[None])[0].flatten(), x[0]).flatten(1)
    probe = Probe(network, x)
    assert probe.record.notes() == []
    (found,) = probe.layer_jacobians.values()
    torch.testing.assert_close(found[0].flip(0), torch.linalg.svdvals(J), atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("kind", ELEMENTWISE)
def test_activations_called_elementwise_are(kind):
    activation = kind().double()
    u = torch.randn(8, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    J = torch.autograd.functional.jacobian(lambda u: activation(u[None])[0], u)
    assert torch.equal(J, torch.diag(J.diagonal()))
    torch.testing.assert_close(slopes(activation, u[None])[0], J.diagonal().abs())


def test_the_input_jacobian():
    network = nn.Sequential(build_mlp(5, NetworkSpec((8, 8), "tanh")), nn.Linear(8, 3)).double()
    x = torch.randn(4, 5, dtype=torch.double)
    J = torch.func.vmap(torch.func.jacrev(network))(x)
    found = Probe(network, x).input_singular_values
    torch.testing.assert_close(found.flip(1), torch.linalg.svdvals(J), atol=1e-7, rtol=1e-7)


def test_compiled_modules_are_looked_through():
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))

    class Compiled(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self._orig_mod = inner

    assert len(Probe(Compiled(network), torch.randn(2, 3)).record.layers) == 2


@pytest.mark.parametrize("batch", [torch.zeros(0, 3), torch.zeros(3), torch.arange(3), None, [1.0]], ids=str)
def test_a_batch_that_is_none(batch):
    with pytest.raises(ValueError, match="need a batch tensor"):
        Probe(nn.Linear(3, 3), batch)


def test_a_batch_that_is_not_finite():
    with pytest.raises(ValueError, match="not finite"):
        Probe(nn.Linear(3, 1), torch.full((2, 3), float("inf")))


@pytest.mark.parametrize(
    ("network", "batch"),
    [
        (nn.Linear(3, 1), torch.ones(2, 3, dtype=torch.uint8)),
        (nn.Linear(3, 1), torch.ones(2, 3, dtype=torch.double)),
        (nn.Linear(3, 1).bfloat16(), torch.ones(2, 3)),
    ],
    ids=["integers", "double", "bfloat16"],
)
def test_batches_are_converted_where_the_network_takes_no_other(network, batch):
    probe = Probe(network, batch)
    assert probe.record.output.dtype == probe.batch.dtype == network.weight.dtype


def scaled(self, x):
    return self.m[0](x.float().flatten(1) / 255 if x.dtype == torch.uint8 else x.flatten(1))


def parts(self, x):
    return self.m[0](torch.cat((x.real, x.imag), 1))


def one_hot(self, x):
    return self.m[0](nn.functional.one_hot(x[:, 0], 5).float())


def looked_up(self, x):
    return self.m[0](torch.arange(300.0).reshape(60, 5)[x[:, 0]])


def indexed(self, x):
    return self.m[1](self.m[0](x[:, 0].long()))


frozen = nn.Embedding.from_pretrained
IMAGES = torch.full((3, 3, 2, 2), 51, dtype=torch.uint8)
PAIR = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
TABLE = torch.arange(300.0).reshape(60, 5)
ODD = torch.arange(300.0)[:, None] % 2
INDICES = torch.tensor([[257.0], [3.0]])  # bfloat16 holds no 257


@pytest.mark.parametrize(
    ("network", "batch", "features"),
    [
        (Calls(scaled, nn.Linear(12, 2)), IMAGES, torch.full((3, 12), 0.2)),
        (Calls(parts, nn.Linear(2, 2)), torch.view_as_complex(PAIR)[:, None], PAIR),
        (Calls(one_hot, nn.Linear(5, 2)), torch.tensor([[4], [0]]), torch.eye(5)[[4, 0]]),
        (Calls(looked_up, nn.Linear(5, 2)), torch.tensor([[2], [0]]), TABLE[[2, 0]]),
        (Calls(indexed, frozen(ODD), nn.Linear(1, 2)).bfloat16(), INDICES, torch.ones(2, 1).bfloat16()),
        (nn.Sequential(frozen(torch.eye(4)), nn.Linear(4, 2)), torch.tensor([3, 1]), torch.eye(4)[[3, 1]]),
    ],
    ids=["scaled by itself", "complex", "one-hot", "a table", "indices", "discrete observations"],
)
def test_a_batch_that_the_network_takes_is_left_as_it_is(network, batch, features):
    probe = Probe(network, batch)
    assert torch.equal(probe.batch, batch)
    assert probe.batch.dtype == batch.dtype
    torch.testing.assert_close(probe.record.features(), features)
    assert probe.ntk_eigenvalues.mean() == pytest.approx(
        (features.double().square().sum(1) + 1).mean().item(), rel=1e-2
    )


def test_by_complex_numbers_nothing_is_differentiated():
    probe = Probe(Calls(parts, nn.Linear(2, 2)), torch.tensor([[1 + 2j], [3 - 1j]]))
    with pytest.raises(NotMeasurableError, match="no real numbers"):
        _ = probe.input_singular_values


def test_a_sequence_in_place_of_the_batch_has_no_input_jacobian():
    """Of an LSTM that takes the samples for the steps, the first sample depends on no other, the last on all."""
    network = Calls(lambda self, x: self.m[1](self.m[0](x)[0].flatten(1)), nn.LSTM(4, 6), nn.Linear(18, 2))
    with pytest.raises(NotMeasurableError, match="depend on other samples"):
        _ = Probe(network, torch.randn(8, 3, 4)).input_singular_values


def test_units_beyond_single_precision():
    network = nn.Sequential(nn.Linear(3, 4), nn.Softplus(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        network[0].weight.zero_()
        network[0].bias.fill_(-110.0)  # units of 1.7e-48
    x = torch.ones(5, 3, dtype=torch.double)
    assert diagnose({"net": network}, x, ["dormant_units"])["plasticity/dormant_units/net"] == 0


def test_a_network_of_several_outputs_is_refused():
    with pytest.raises(ValueError, match="returns one tensor, got tuple"):
        _ = Probe(nn.GRU(3, 3), torch.zeros(2, 4, 3)).record


@pytest.mark.parametrize("samples", [1, 2, 63, 64, 65])
@pytest.mark.parametrize("outputs", [1, 4, 5, 256, 257])
def test_the_kernel_is_of_as_many_first_samples_as_its_size_allows(samples, outputs):
    """min(64, 256 / C), and one at least: here of f(x) = W x, whose kernel is (x x^T + 1) for each output."""
    x = torch.randn(samples, 3, dtype=torch.double)
    network = nn.Linear(3, outputs).double()
    probe = Probe(network, x)
    n = min(samples, 64, max(1, 256 // outputs))
    expected = torch.linalg.eigvalsh(torch.kron(x[:n] @ x[:n].T + 1, torch.eye(outputs, dtype=torch.double)))
    torch.testing.assert_close(probe.ntk_eigenvalues, expected.clamp(min=0), atol=1e-9, rtol=1e-9)
    assert probe.input_singular_values.shape == (n, min(outputs, 3))


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_all_layers_but_the_head_are_hidden(depth):
    layers = [part for _ in range(depth - 1) for part in (nn.Linear(3, 3), nn.ReLU())]
    recorded = Probe(nn.Sequential(*layers, nn.Linear(3, 2)), torch.randn(5, 3)).record
    expected = [f"linear{number}" for number in range(1, max(depth, 2))]
    assert [layer.name for layer in recorded.hidden()] == expected
