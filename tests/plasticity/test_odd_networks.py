"""Networks other than plain ones: figures are right or refused by name, and never of another network."""

import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from isorl.plasticity import METRICS, NetworkSpec, build_mlp, diagnose, empirical_ntk, report
from isorl.plasticity.diagnostics import ntk
from isorl.plasticity.diagnostics.probe import Probe, evenly
from isorl.plasticity.diagnostics.record import NotMeasurableError


class Calls(nn.Module):
    """A network with a forward pass of its own."""

    def __init__(self, forward, *modules, **weights):
        super().__init__()
        self.m = nn.ModuleList(modules)
        self.call = forward
        for name, shape in weights.items():
            setattr(self, name, nn.Parameter(torch.randn(shape)))

    def forward(self, x):
        return self.call(self, x)


class Noisy(nn.Linear):
    """As in NoisyNet: a weight and its spread."""

    def __init__(self, in_features, out_features):
        super().__init__(in_features, out_features)
        self.sigma = nn.Parameter(torch.rand(out_features, in_features))

    def forward(self, x):
        return F.linear(x, self.weight + 0.3 * self.sigma, self.bias)


def convolution(kind, *args, pixels, **options):
    layer = kind(2, 4, *args, **options)
    features = layer(torch.zeros(1, 2, *pixels)).numel()
    return nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.Linear(features, 3)), (2, *pixels)


def mlp(first=None, second=None, act=None):
    return nn.Sequential(first or nn.Linear(4, 6), act or nn.ReLU(), second or nn.Linear(6, 2)), (4,)


def in_place(self, x):
    h = self.m[0](x)
    F.relu_(h)
    h = self.m[1](h)
    h.mul_(2)
    return self.m[3](self.m[2](h))


def shared_weight():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(4, 2)), (4,)


def transposed_weight(self, x):
    return F.linear(self.m[1](self.m[0](x)), self.m[0].weight.T)


def by_norm(norm):
    return nn.Sequential(nn.Conv2d(2, 4, 2), norm, nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(16, 3)), (
        2,
        3,
        3,
    )


def bodied(**options):
    return nn.Sequential(build_mlp(4, NetworkSpec((6, 6), **options)), nn.Linear(6, 2)), (4,)


NETWORKS = {
    "grouped": lambda: convolution(nn.Conv2d, 3, groups=2, pixels=(4, 4)),
    "circular": lambda: convolution(nn.Conv2d, 3, padding=1, padding_mode="circular", pixels=(4, 4)),
    "same": lambda: convolution(nn.Conv2d, 3, padding="same", pixels=(4, 4)),
    "1-d": lambda: convolution(nn.Conv1d, 3, pixels=(6,)),
    "3-d": lambda: convolution(nn.Conv3d, 2, pixels=(3, 3, 3)),
    "transposed": lambda: convolution(nn.ConvTranspose2d, 2, pixels=(3, 3)),
    "attention": lambda: (
        Calls(
            lambda self, x: self.m[1](self.m[0](x, x, x)[0].mean(1)),
            nn.MultiheadAttention(8, 2, batch_first=True),
            nn.Linear(8, 2),
        ),
        (4, 8),
    ),
    "transformer": lambda: (
        nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Flatten(), nn.Linear(32, 2)),
        (4, 8),
    ),
    "embedding": lambda: (
        nn.Sequential(nn.Embedding(7, 6), nn.Flatten(), nn.Linear(18, 5), nn.ReLU(), nn.Linear(5, 2)),
        (3,),
    ),
    "recurrent": lambda: (
        Calls(
            lambda self, x: self.m[1](self.m[0](x)[0][:, -1]), nn.GRU(4, 6, batch_first=True), nn.Linear(6, 2)
        ),
        (3, 4),
    ),
    "weight_norm": lambda: mlp(parametrizations.weight_norm(nn.Linear(4, 6))),
    "spectral_norm": lambda: mlp(parametrizations.spectral_norm(nn.Linear(4, 6))),
    "orthogonal": lambda: mlp(parametrizations.orthogonal(nn.Linear(4, 6))),
    "legacy_weight_norm": lambda: mlp(legacy(nn.utils.weight_norm)),
    "legacy_spectral_norm": lambda: mlp(legacy(nn.utils.spectral_norm)),
    "hard": lambda: bodied(activation="maxmin", isometry="hard"),
    "spectral": lambda: bodied(spectral_norm=True),
    "noisy": lambda: mlp(second=Noisy(6, 2)),
    "prelu": lambda: mlp(act=nn.PReLU()),
    "shared weight": shared_weight,
    "transposed weight": lambda: (Calls(transposed_weight, nn.Linear(4, 6), nn.ReLU()), (4,)),
    "bare weight": lambda: (Calls(lambda self, x: self.m[0](x) @ self.w, nn.Linear(4, 6), w=(6, 2)), (4,)),
    "in place": lambda: (
        Calls(in_place, nn.Linear(4, 6), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2)),
        (4,),
    ),
    "instance norm": lambda: by_norm(nn.InstanceNorm2d(4, affine=True)),
    "group norm": lambda: by_norm(nn.GroupNorm(2, 4)),
    "flattened activation": lambda: (
        nn.Sequential(nn.Conv2d(2, 4, 2), nn.Flatten(), nn.ReLU(), nn.Linear(16, 3)),
        (2, 3, 3),
    ),
    "folded positions": lambda: (
        Calls(
            lambda self, x: self.m[2](self.m[1](self.m[0](x.flatten(0, 1)))).view(len(x), -1),
            nn.Linear(4, 6),
            nn.Tanh(),
            nn.Linear(6, 2),
        ),
        (3, 4),
    ),
    "one output": lambda: (Calls(lambda self, x: self.m[0](x)[:, 0], nn.Linear(4, 1)), (4,)),
    "width zero": lambda: mlp(nn.Linear(4, 0), nn.Linear(0, 2)),
}


def legacy(norm):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return norm(nn.Linear(4, 6))


def made(name):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element")
        network, shape = NETWORKS[name]()
    x = torch.randint(7, (5, *shape)) if name == "embedding" else torch.randn(5, *shape)
    return network, x


def by_jacrev(network, x):
    parameters = {name: p.detach() for name, p in network.named_parameters()}

    def f(parameters, x):
        return torch.func.functional_call(network, parameters, (x[None],)).flatten()

    rows = [torch.func.jacrev(f)(parameters, sample) for sample in x]
    J = torch.cat([torch.cat([j.flatten(1) for j in row.values()], 1) for row in rows])
    return J @ J.T


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("name", NETWORKS)
def test_the_kernel_is_over_every_parameter(name):
    network, x = made(name)
    network = network.double().eval()
    x = x.double() if x.is_floating_point() else x
    K = empirical_ntk(network, x)
    torch.testing.assert_close(K, by_jacrev(network, x), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_everything_is_measured_or_refused_by_name(name):
    network, x = made(name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        values = diagnose({"net": network}, x, list(METRICS))
    said = " ".join(str(warning.message) for warning in caught)
    missing = [key for key, value in values.items() if isinstance(value, float) and math.isnan(value)]
    assert bool(missing) == ("could not measure" in said)
    assert not any(key.startswith(("plasticity/ntk", "plasticity/weight_norm")) for key in missing)
    for path, module in network.named_modules():
        matrices = any(p.ndim > 1 for p in module.parameters(recurse=False))
        layer = next((la for la in Probe(network, x).record.layers if la.module is module), None)
        if matrices and layer is None and "parametrizations" not in path and not path.endswith("out_proj"):
            assert (path or "w (read") in said
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        text = str(report(network, x))
    assert ("note: " in text) == ("plasticity of net" in said)


def test_the_kernel_in_parts_is_the_kernel(monkeypatch):
    """Where all rows of the Jacobian do not fit into memory at once."""
    network, x = made("recurrent")
    whole = empirical_ntk(network, x)
    monkeypatch.setattr(ntk, "ELEMENTS_AT_ONCE", 8 * sum(p.numel() for p in network.parameters()))
    torch.testing.assert_close(empirical_ntk(network, x), whole)


def test_a_frozen_network_has_the_same_kernel_and_stays_frozen():
    network, x = made("recurrent")
    K = empirical_ntk(network, x)
    network.requires_grad_(False)
    assert torch.equal(empirical_ntk(network, x), K)
    assert not any(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Calls(lambda self, x: self.m[0](x - x.mean(0)), nn.Linear(4, 2)), "depend on other samples"),
        (
            nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 2)),
            "does not take one sample alone",
        ),
        (
            Calls(
                lambda self, x: self.m[1](self.m[0](x, self.given[: len(x)])),
                nn.GRUCell(4, 6),
                nn.Linear(6, 2),
            ),
            "other outputs alone than in the batch",
        ),
    ],
    ids=["centred", "batch statistics", "by the place in the batch"],
)
def test_outputs_that_depend_on_the_batch_have_no_kernel(network, reason):
    x = torch.randn(5, 4)
    network.given = torch.randn(5, 6)
    with pytest.raises(NotMeasurableError, match=reason):
        empirical_ntk(network, x)
    with pytest.warns() as caught:
        values = diagnose({"net": network}, x, ["ntk_trace", "weight_norm"])
    assert reason in str(caught[-1].message)
    assert math.isnan(values["plasticity/ntk_trace/net"])
    assert values["plasticity/weight_norm/net"] > 0


def test_a_network_without_parameters_has_a_kernel_of_zeros():
    assert not empirical_ntk(nn.Flatten(), torch.randn(3, 2, 2)).any()


def test_numbers_that_are_counted_have_no_gradient_and_no_part_in_the_kernel():
    network = nn.Sequential(nn.Linear(4, 2), nn.Tanh()).double()
    x = torch.randn(3, 4, dtype=torch.double)
    K = empirical_ntk(network, x)
    network[0].seen = nn.Parameter(torch.tensor([5]), requires_grad=False)
    torch.testing.assert_close(empirical_ntk(network, x), K, rtol=1e-12, atol=1e-12)


def test_complex_parameters_have_no_kernel():
    network = Calls(lambda self, x: (x * self.w).abs(), w=(4,))
    network.w = nn.Parameter(torch.randn(4, dtype=torch.complex64))
    with pytest.raises(NotMeasurableError, match="complex parameters"):
        empirical_ntk(network, torch.randn(3, 4))


def test_outputs_that_depend_on_the_batch_have_no_input_jacobian():
    network = Calls(lambda self, x: self.m[0](x - x.mean(0)), nn.Linear(4, 2))
    with pytest.warns(RuntimeWarning, match="depend on other samples"):
        values = diagnose({"net": network}, torch.randn(5, 4), ["input_jacobian_max"])
    assert math.isnan(values["plasticity/input_jacobian_max/net"])


def two_on_one(self, x):
    h = self.m[0](x)
    return self.m[3](self.m[1](h) + self.m[2](h))


def around(self, x):
    h = self.m[0](x)
    return self.m[2](self.m[1](h)) + self.m[3](h)


def gated(self, x):
    return x * self.m[0](x)


@pytest.mark.parametrize(
    "network",
    [
        Calls(two_on_one, nn.Linear(4, 6), nn.ReLU(), nn.Tanh(), nn.Linear(6, 2)),
        nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Tanh(), nn.Linear(6, 2)),
        Calls(lambda self, x: self.m[1](self.m[0](x).relu()), nn.Linear(4, 6), nn.Linear(6, 2)),
        Calls(in_place, nn.Linear(4, 6), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2)),
        Calls(around, nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2), nn.Linear(6, 2)),
        nn.Sequential(nn.Linear(4, 6), Calls(lambda self, x: x * self.w, w=(6,)), nn.Linear(6, 2)),
    ],
    ids=["two activations", "one after the other", "functional", "in place", "around it", "a learned one"],
)
def test_a_layer_whose_activation_is_not_known_has_no_jacobian_and_no_units(network):
    metrics = ["layer_jacobian_max", "dormant_units", "gram_deviation"]
    with pytest.warns(
        UserWarning, match=r"plasticity of net: what follows (m\.)?0(, m\.[12])? is not one activation"
    ):
        values = diagnose({"net": network}, torch.randn(9, 4), metrics)
    assert "plasticity/layer_jacobian_max/net/linear1" not in values
    assert "plasticity/dormant_units/net/linear1" not in values
    assert "plasticity/gram_deviation/net/linear1" in values


def test_an_activation_that_mixes_units_is_refused_by_name():
    network = nn.Sequential(nn.Linear(4, 8), nn.GLU(), nn.Linear(4, 6), nn.Identity(), nn.Linear(6, 2))
    with pytest.warns(RuntimeWarning, match="no Jacobian of 0: GLU mixes units"):
        values = diagnose({"net": network}, torch.randn(9, 4), ["layer_jacobian_max"])
    W = network[2].weight.detach()
    expected = torch.linalg.matrix_norm(W, 2).item()
    assert values["plasticity/layer_jacobian_max/net"] == pytest.approx(expected, rel=1e-5)
    assert "plasticity/layer_jacobian_max/net/linear1" not in values


def test_an_activation_made_of_modules_is_one():
    network = nn.Sequential(nn.Linear(4, 6), Calls(gated, nn.Sigmoid()), nn.Linear(6, 2)).double()
    x = torch.randn(1, 4, dtype=torch.double)
    J = torch.autograd.functional.jacobian(lambda v: network[:2](v[None])[0], x[0])
    found = Probe(network, x).layer_jacobians["linear1"][0]
    torch.testing.assert_close(found.flip(0), torch.linalg.svdvals(J), atol=1e-7, rtol=1e-7)


def test_units_of_a_convolution_are_channels_behind_a_flatten_too():
    layers = [nn.Conv2d(2, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)]
    x = torch.randn(9, 2, 3, 3)
    expected = diagnose({"net": nn.Sequential(*layers)}, x)
    found = diagnose({"net": nn.Sequential(layers[0], layers[2], layers[1], layers[3])}, x)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm", "orthogonal", "legacy_weight_norm"])
def test_a_parametrized_layer_is_measured_by_the_weight_it_multiplies_by(name):
    network, x = made(name)
    network.eval()(x)
    W = network[0].weight.detach().double()
    expected = (torch.linalg.svdvals(W) ** 2 - 1).square().mean().item()
    found = diagnose({"net": network}, x, ["gram_deviation"])
    assert found["plasticity/gram_deviation/net/linear1"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "reads"),
    [
        ("noisy", lambda network, x: network[1](network[0](x))),
        ("recurrent", lambda network, x: network.m[0](x)[0][:, -1]),
    ],
)
def test_features_are_what_the_last_module_reads_whatever_it_is(name, reads):
    network, x = made(name)
    torch.testing.assert_close(Probe(network, x).record.features(), reads(network, x))


@pytest.mark.parametrize("name", ["transposed weight", "bare weight"])
def test_features_that_no_module_reads_are_refused(name):
    network, x = made(name)
    with pytest.raises(NotMeasurableError, match=r"which features the last layer reads; not understood: .*w"):
        Probe(network, x).record.features()


def test_what_a_layer_read_must_not_change():
    def forward(self, x):
        h = self.m[1](x)
        y = self.m[0](h)
        h.mul_(2)
        return y

    with pytest.raises(NotMeasurableError, match=r"what m\.0 read was changed in place"):
        _ = Probe(Calls(forward, nn.Linear(4, 2), nn.Identity()), torch.randn(3, 4)).record


@pytest.mark.parametrize(
    "network",
    [nn.Flatten(0), Calls(lambda self, x: x.sum()), Calls(lambda self, x: x[:, :0])],
    ids=["joined", "sum", "none"],
)
def test_a_network_needs_an_output_for_each_sample(network):
    with pytest.raises(ValueError, match="an output for each of the 3 samples, got shape"):
        diagnose({"net": network}, torch.randn(3, 4), ["dormant_units"])


def test_rows_are_taken_evenly_from_samples_and_positions():
    assert evenly(10, 10, 16).tolist() == list(range(10))
    batch, positions = 64, 49
    chosen = evenly(batch * positions, batch, 16)
    samples, pixels = chosen // positions, chosen % positions
    assert samples.tolist() == list(range(2, 64, 4))
    for part in (pixels // 7, pixels % 7):  # rows and columns of the image
        assert len(part.unique()) >= 5
    inner = (pixels // 7 % 6 != 0) & (pixels % 7 % 6 != 0)
    assert inner.sum() >= 6
    assert len(evenly(100, 7, 16).unique()) == 16  # rows that are no multiple of the samples


def test_layer_jacobians_of_an_image_see_more_than_its_corners():
    """A pixel is bright inside the image alone: an activation that is off at the border is on there."""
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 64, 1))
    with torch.no_grad():
        network[0].weight.fill_(1.0)
        network[0].bias.fill_(-0.5)
    x = torch.zeros(24, 1, 8, 8)
    x[:, :, 1:-1, 1:-1] = 1.0
    values = diagnose({"net": network}, x, ["layer_jacobian_max", "layer_jacobian_min"])
    assert values["plasticity/layer_jacobian_max/net/conv1"] == pytest.approx(math.sqrt(2))
    assert values["plasticity/layer_jacobian_min/net/conv1"] == 0


def test_few_samples_are_all_looked_at():
    network = build_mlp(5, NetworkSpec((8,))).double()
    x = torch.randn(16, 5, dtype=torch.double)
    J = torch.func.vmap(torch.func.jacrev(network))(x)
    found = Probe(network, x).layer_jacobians["linear1"]
    torch.testing.assert_close(found.flip(1), torch.linalg.svdvals(J), atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("kind", ["MaxPool", "AvgPool", "AdaptiveAvgPool"])
def test_pooling_of_any_dimension_hands_on_what_comes_after_the_activation(dimensions, kind):
    network = nn.Sequential(
        getattr(nn, f"Conv{dimensions}d")(2, 4, 3), nn.ReLU(), getattr(nn, f"{kind}{dimensions}d")(2), nn.Flatten(),
        nn.Linear(4 * 2**dimensions, 3)
    )  # fmt: skip
    recorded = Probe(network, torch.randn(5, 2, *[6] * dimensions)).record
    assert [layer.is_understood for layer in recorded.layers] == [True, True]
    assert recorded.layers[0].units().shape == (5 * 4**dimensions, 4)
