"""What follows a layer, and what the last one reads: figures of that, or refused by name."""

import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from isorl.plasticity import diagnose, empirical_ntk, jacobian_penalty
from isorl.plasticity.diagnostics.probe import Probe
from tests.plasticity.test_odd_networks import Calls, by_jacrev

FIGURES = ["layer_jacobian_max", "dormant_units"]


def measured(network, x, metrics=FIGURES):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        values = diagnose({"net": network}, x, metrics)
    said = "; ".join(str(warning.message) for warning in caught)
    return {key.removeprefix("plasticity/"): value for key, value in values.items()}, said


class Moves(nn.Module):
    """Any function as a module, as Rearrange, Permute and View are."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def dead(layer, units=slice(None)):
    layer.bias.data[units] = -100.0
    return layer


def test_units_are_not_counted_along_what_a_module_has_moved():
    network = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)),
        *(Moves(lambda x: x.permute(0, 2, 3, 1)), nn.LayerNorm(8), dead(nn.Linear(8, 16)), nn.ReLU()),
        *(nn.Linear(16, 8), Moves(lambda x: x.permute(0, 3, 1, 2)), nn.Flatten(), nn.Linear(200, 2)),
    )
    values, said = measured(network, torch.randn(6, 3, 5, 5))
    assert values["dormant_units/net"] == pytest.approx(16 / 24)  # of 8 channels and 16 units
    assert "what follows 2, 7 is not" in said


@pytest.mark.parametrize("drop", [nn.Identity(), Moves(lambda x: x)], ids=["Identity", "its own"])
def test_a_module_that_hands_on_what_it_is_given_is_no_activation(drop):
    def forward(self, x):
        h = self.m[0](x)
        return self.m[4](h + self.m[3](self.m[2](self.m[5](self.m[1](h)))))

    layers = nn.Linear(4, 8), dead(nn.Linear(8, 16)), nn.Linear(16, 8), drop, nn.Linear(8, 2), nn.ReLU()
    values, said = measured(Calls(forward, *layers), torch.randn(8, 4))
    assert values["dormant_units/net"] == 1.0  # the one hidden layer with units
    assert values["layer_jacobian_max/net"] == 0.0
    assert "what follows m.0, m.2 is not" in said


def attending(self, x):
    q, k, v = self.m[0](x), self.m[1](x), self.m[2](x)
    return self.m[4](self.m[3](q, k, v).mean(1))


def with_slopes(units):
    activation = nn.PReLU(units)
    activation.weight.data = torch.rand(units)
    return nn.Sequential(nn.Linear(4, 6), activation, nn.Flatten(), nn.Linear(6 * units, 2))


def twice(first, second):
    layers = nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)
    return Calls(lambda self, x: self.m[2](first(self, self.m[0](x)) + second(self, self.m[0](-x))), *layers)


UNCLEAR = {
    "attention": (
        Calls(
            attending,
            *(nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(4, 8)),
            *(Moves(F.scaled_dot_product_attention), nn.Linear(8, 2)),
        ),
        (3, 4),
        "m.0, m.1, m.2",
    ),
    "a sum as a module": (
        Calls(
            lambda self, x: self.m[3](self.m[2](self.m[0](x), self.m[1](x))),
            *(nn.Linear(4, 5), nn.Linear(4, 5), Moves(torch.add), nn.Linear(5, 2)),
        ),
        (4,),
        "m.0, m.1",
    ),
    "a softmax over pixels": (
        nn.Sequential(
            nn.Conv2d(1, 4, 3),
            Moves(lambda x: x.flatten(2).softmax(-1).view_as(x)),
            nn.Flatten(),
            nn.Linear(36, 2),
        ),
        (1, 5, 5),
        "0",
    ),
    "slopes by position": (with_slopes(6), (6, 4), "0"),
    "slopes by another number of positions": (with_slopes(5), (5, 4), "0"),
    "a softmax in between": (nn.Sequential(nn.Linear(4, 5), nn.Softmax(-1), nn.Linear(5, 2)), (4,), "0"),
    "a function at the end": (
        Calls(lambda self, x: F.relu(self.m[2](self.m[1](self.m[0](x)))), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)),
        (4,),
        "m.2",
    ),
    "a function beside a layer": (
        Calls(
            lambda self, x: (lambda h: self.m[1](F.relu(h)) + self.m[2](h))(self.m[0](x)),
            *(nn.Linear(4, 5), nn.Linear(5, 2), nn.Linear(5, 2)),
        ),
        (4,),
        "m.0",
    ),
    "around its activation": (
        Calls(
            lambda self, x: (lambda h: self.m[2](self.m[1](h) + h))(self.m[0](x)),
            *(dead(nn.Linear(4, 5)), nn.ReLU(), nn.Linear(5, 2)),
        ),
        (4,),
        "m.0",
    ),
    "a module, then a function": (twice(lambda self, h: self.m[1](h), lambda self, h: F.relu(h)), (4,), "m.0"),
    "a function, then a module": (twice(lambda self, h: F.relu(h), lambda self, h: self.m[1](h)), (4,), "m.0"),
}  # fmt: skip


@pytest.mark.parametrize(("network", "shape", "unclear"), UNCLEAR.values(), ids=UNCLEAR)
def test_what_is_no_activation_of_a_layer_is_named(network, shape, unclear):
    values, said = measured(network, torch.randn(8, *shape))
    assert f"what follows {unclear} is not one activation module" in said
    recorded = Probe(network, torch.randn(8, *shape)).record
    paths = unclear.split(", ")
    assert not {
        f"{key}/net/{layer.name}" for key in FIGURES for layer in recorded.layers if layer.path in paths
    } & {*values}


def test_the_penalty_takes_the_calls_of_a_layer_in_any_order():
    """Both calls by the activation, in the other order: the gradient is that of the calls one after the other."""

    def crossed(self, x):
        first, second = self.m[0](x), self.m[0](-x)
        second, first = self.m[1](second), self.m[1](first)
        return self.m[2](first + second)

    plain = twice(*[lambda self, h: self.m[1](h)] * 2)
    plain.m[1] = nn.Tanh()
    x = torch.randn(8, 4)
    expected = torch.autograd.grad(jacobian_penalty(plain, x), plain.m[0].parameters())
    found = torch.autograd.grad(jacobian_penalty(Calls(crossed, *plain.m), x), plain.m[0].parameters())
    torch.testing.assert_close(found, expected)
    assert expected[1].any()


@pytest.mark.parametrize(
    "moves",
    [lambda x: x.view(len(x), -1), lambda x: x.mean((2, 3)), lambda x: F.pad(x, (1, 1, 1, 1)).flatten(1)],
    ids=["View", "GAP", "ZeroPad"],
)
def test_what_moves_the_units_is_no_second_activation(moves):
    convolution = nn.Conv2d(1, 4, 3)
    dead(convolution, slice(0, 1))
    x = torch.randn(8, 1, 5, 5)
    features = moves(convolution(x)).shape[1]
    network = nn.Sequential(convolution, nn.ReLU(), Moves(moves), nn.Linear(features, 2))
    values, said = measured(network, x)
    assert values["dormant_units/net"] == pytest.approx(1 / 4)
    assert "layer_jacobian_max/net/conv1" in values
    assert not said


def test_heads_that_are_moved_and_added_are_understood():
    network = Calls(
        lambda self, x: torch.cat(
            [self.m[0](x) + self.m[1](x).mean(1, keepdim=True), self.m[1](x)[:, :1]], 1
        ),
        *(nn.Linear(4, 3), nn.Linear(4, 2)),
    )
    assert Probe(network, torch.randn(8, 4)).record.notes() == []


def test_what_takes_a_shape_alone_reads_nothing():
    def forward(self, x):
        h = self.m[0](x)
        out = h.new_zeros(len(h), 2)
        out[:] = self.m[2](self.m[1](h) + torch.zeros_like(h))
        return out

    network = Calls(forward, nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    assert Probe(network, torch.randn(8, 4)).record.notes() == []


def keyed(self, x):
    units = self.m[2](self.m[1](x))
    return self.m[4](self.m[3](self.m[0](x), key=units, value=self.m[2](self.m[1](x)))[0].mean(1))


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (
            Calls(
                keyed,
                *(nn.Linear(4, 8), dead(nn.Linear(4, 8), slice(0, 4)), nn.ReLU()),
                *(nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 2)),
            ),
            (3, 4),
        ),
        (
            Calls(
                lambda self, x: self.m[3](self.m[2](x, hx=self.m[1](input=self.m[0](input=x)))),
                *(dead(nn.Linear(4, 8), slice(0, 4)), nn.ReLU(), nn.GRUCell(4, 8), nn.Linear(8, 2)),
            ),
            (4,),
        ),
    ],
    ids=["attention", "a cell"],
)
def test_what_reaches_a_module_by_keyword_has_influence(network, shape):
    values, said = measured(network, torch.randn(60, *shape))
    assert values["dormant_units/net"] == 0.5
    assert "does not depend" not in said


@torch.jit.script
def gate(a, b):
    return torch.sigmoid(a) * b


@pytest.mark.parametrize("samples", [6, 100], ids=["with a graph", "without"])
def test_what_goes_through_a_scripted_function_has_influence(samples):
    def forward(self, x):
        h = self.m[2](self.m[1](x))
        self.m[4](x)
        return self.m[3](self.m[2](self.m[0](x)) + gate(h, h))

    layers = nn.Linear(4, 8), dead(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 2), nn.Linear(4, 3)
    values, said = measured(Calls(forward, *layers), torch.randn(samples, 4))
    assert values["dormant_units/net"] == 0.5
    assert "the output does not depend on m.4:" in said


L, H = nn.Linear(4, 6), nn.Linear(6, 2)


def by_time(self, x):
    return self.m[1](F.relu(self.m[0](x.transpose(0, 1)))).transpose(0, 1).mean(1)


def folded(self, x):
    return self.m[1](F.relu(self.m[0](x.flatten(0, 1)))).view(len(x), 3, -1).mean(1)


@pytest.mark.parametrize(
    ("forward", "samples", "reason"),
    [
        (by_time, 32, r"reads \(3, 32, 6\), whose rows are not the 32 samples"),
        (by_time, 3, "which features the last layer reads"),
        (folded, 32, r"reads \(96, 6\), whose rows are not the 32 samples"),
        (lambda self, x: self.m[1](self.m[0](x[:, 0])) - self.m[1](self.m[0](x[:, 1])), 8, "no single one"),
    ],
    ids=["time first", "as many steps as samples", "folded", "siamese"],
)
def test_features_that_are_no_row_for_each_sample_are_refused(forward, samples, reason):
    values, said = measured(Calls(forward, L, H), torch.randn(samples, 3, 4), ["feature_norm"])
    assert math.isnan(values["feature_norm/net"])
    assert reason.replace("\\", "") in said


@pytest.mark.parametrize("samples", [3, 32])
def test_features_of_sequences_are_those_of_their_steps_together(samples):
    network = Calls(lambda self, x: self.m[1](F.relu(self.m[0](x))).mean(1), L, H)
    x = torch.randn(samples, 3, 4)
    values, _ = measured(network, x, ["feature_norm"])
    expected = F.relu(x @ L.weight.T + L.bias).flatten(1).norm(dim=1).mean().item()
    assert values["feature_norm/net"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "product", [torch.matmul, lambda h, w: F.linear(h, 2 * w[None])], ids=["vector", "row"]
)
def test_a_vector_that_is_multiplied_by_is_a_head(product):
    network = Calls(
        lambda self, x: product(self.m[1](self.m[0](x)), self.w), nn.Linear(4, 6), nn.Tanh(), w=(6,)
    )
    values, said = measured(network, torch.randn(8, 4), ["feature_norm", "gram_deviation"])
    assert math.isnan(values["feature_norm/net"])
    assert "no layer figures of w (read outside of its module)" in said
    assert Probe(network, torch.randn(8, 4)).record.last == ["w"]


def test_scales_and_biases_are_no_heads():
    network = Calls(
        lambda self, x: F.linear(self.m[0](x) * self.w, self.m[1].weight, self.b), L, H, w=(6,), b=(2,)
    )
    assert Probe(network, torch.randn(8, 4)).record.last == ["m.1.weight"]


def test_weights_put_in_the_place_of_a_layers_own_are_not_measured_as_its():
    def fast(self, x):
        weights = {"weight": 0.5 * self.m[0].weight}
        return self.m[2](self.m[1](torch.func.functional_call(self.m[0], weights, (x,))))

    network = Calls(fast, nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    x = torch.randn(8, 4, dtype=torch.double)
    values, said = measured(network, x, ["gram_deviation", "layer_jacobian_max"])
    assert "no layer figures of m.0 (Linear whose weights were replaced)" in said
    W = network.m[2].weight.detach()
    expected = (torch.linalg.svdvals(W) ** 2 - 1).square().mean().item()
    assert values["gram_deviation/net"] == pytest.approx(expected)
    torch.testing.assert_close(empirical_ntk(network, x), by_jacrev(network, x), rtol=1e-6, atol=1e-9)
