import pytest
import torch
from torch import nn

from isorl.plasticity.methods.structure import (
    NoChainError,
    check_separable,
    head,
    hidden_layers,
    unit_outputs,
)
from isorl.plasticity.methods.surgery import add_parameters, edit, forget, replace_module
from isorl.plasticity.networks import CReLU, MaxMin
from tests.plasticity.methods.conftest import cnn, mlp


class Masked(nn.Module):
    """An activation that silences one channel or unit, both copies of it."""

    def __init__(self, activation, unit, units):
        super().__init__()
        self.activation, self.unit, self.units = activation, unit, units

    def forward(self, x):
        h = self.activation(x).clone()
        h[:, self.unit :: self.units] = 0
        return h


@pytest.mark.parametrize(("activation", "copies"), [(nn.ReLU, 1), (lambda: CReLU(-3), 2)])
@pytest.mark.parametrize(("place", "layer", "units"), [(1, 0, 3), (3, 1, 4)])
def test_zero_columns_silence_exactly_one_unit(activation, copies, place, layer, units):
    """Conv to conv, and conv over flatten to linear."""
    network, x = cnn(activation, copies), torch.randn(7, 2, 6, 6)
    hidden = hidden_layers({"q": network})[layer]
    assert hidden.units == units
    body = network[0]
    silenced = body[place]
    body[place] = Masked(silenced, 1, units)
    expected = network(x)
    body[place] = silenced
    with torch.no_grad():
        for reader in hidden.readers:
            hidden.columns(reader.weight)[:, :, 1] = 0
    torch.testing.assert_close(network(x), expected)


def test_a_shared_body_is_found_once_and_read_by_both_heads():
    body, actor, critic = mlp(3, 4, 5, 1)[0], nn.Linear(5, 2), nn.Linear(5, 1)
    layers = hidden_layers({"actor": nn.Sequential(body, actor), "critic": nn.Sequential(body, critic)})
    assert [layer.units for layer in layers] == [4, 5]
    assert layers[0].readers == [body[2]]
    assert layers[1].readers == [actor, critic]


def test_separate_bodies_are_both_found():
    layers = hidden_layers({"actor": mlp(3, 4, 2), "critic": mlp(3, 4, 1)})
    assert [layer.name for layer in layers] == ["actor.0.0", "critic.0.0"]


def test_unit_outputs_are_what_the_next_layer_reads():
    network, x = cnn(lambda: CReLU(-3), 2), torch.randn(7, 2, 6, 6)
    outputs = unit_outputs({"q": network}, hidden_layers({"q": network}), x)
    first = network[0][:2](x)  # (B, 6, H, W): copies outermost
    assert outputs[0].shape == (7 * 2 * 4 * 4, 3)
    torch.testing.assert_close(outputs[0].sum(0), first.sum((0, 2, 3)).view(2, 3).sum(0))
    torch.testing.assert_close(outputs[2], network[0](x))


def test_units_that_sort_each_other_are_refused():
    network = nn.Sequential(nn.Sequential(nn.Linear(2, 4), MaxMin()), nn.Linear(4, 1))
    with pytest.raises(ValueError, match=r"'redo' replaces single units, but MaxMin of layer q\.0\.0"):
        check_separable(hidden_layers({"q": network}), "redo")


def test_edit_reaches_weight_and_moments_and_keeps_the_step():
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(layer.parameters(), amsgrad=True)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    edit(optimizer, layer.weight, lambda tensor, own: tensor[1].fill_(7 if own else 0))
    state = optimizer.state[layer.weight]
    assert (layer.weight[1] == 7).all()
    assert (layer.weight[0] != 7).all()
    for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
        assert (state[name][1] == 0).all()
        assert (state[name][0] != 0).all()
    assert state["step"] == 1


def test_forgotten_and_added_parameters_are_trained():
    layer, more = nn.Linear(3, 2), nn.Linear(3, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    add_parameters(optimizer, more.parameters(), like=layer.weight)
    before = more.weight.detach().clone()
    for _ in range(2):
        optimizer.zero_grad()
        (layer(torch.ones(1, 3)) + more(torch.ones(1, 3))).sum().backward()
        optimizer.step()
        forget(optimizer, layer.weight)
    assert not torch.equal(more.weight, before)
    assert layer.weight not in optimizer.state


def test_replace_module_finds_every_place():
    old, new = nn.Linear(1, 1), nn.Linear(1, 1)
    root = nn.ModuleDict({"a": nn.Sequential(old), "b": old})
    assert replace_module(root, old, new) == 2
    assert head(root["a"]) is new


def test_dropout_and_pooling_hide_no_activation():
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        MaxMin(-3),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(36, 6),
        nn.Dropout(),
        MaxMin(),
        nn.Linear(6, 1),
    )
    layers = hidden_layers({"q": network})
    assert [type(layer.activation) for layer in layers] == [MaxMin, MaxMin]
    with pytest.raises(ValueError, match=r"MaxMin of layer q\.0 sorts them in groups"):
        check_separable(layers, "redo")


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (nn.Conv2d(4, 4, 3, groups=2), r"Conv2d \(1\) is grouped"),
        (nn.BatchNorm2d(4), r"BatchNorm2d \(1\) normalises over the batch"),
        (nn.BatchNorm2d(4, affine=False), r"BatchNorm2d \(1\) normalises over the batch"),
        (nn.Conv1d(4, 4, 3), r"Conv1d \(1\) has weights of another kind"),
        (nn.Sequential(nn.ConvTranspose2d(4, 4, 3)), r"ConvTranspose2d \(1.0\) has weights of another kind"),
    ],
)
def test_layers_that_would_be_edited_wrongly_are_refused(layer, why):
    network = nn.Sequential(nn.Conv2d(2, 4, 3), layer, nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(NoChainError, match=why):
        hidden_layers({"q": network})
