import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from isorl.plasticity import (
    AdamO,
    NetworkSpec,
    Role,
    build_mlp,
    build_nature_cnn,
    gram_penalty,
    module_gram_penalty,
    parameter_groups,
    report,
    roles,
)
from isorl.plasticity.networks import effective_weight
from isorl.plasticity.roles import hidden_matrix_layers


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = build_nature_cnn((3, 36, 36), NetworkSpec(layer_norm=True), features=16)
        self.shared = self.features
        self.action_net = nn.Linear(16, 4)
        self.action_net_2 = nn.Linear(16, 4)
        self.embedding = nn.Embedding(3, 4)
        self.log_std = nn.Parameter(torch.zeros(4))


def test_roles_by_hand():
    found = roles(Policy(), heads=["action_net"])
    assert found["log_std"] is Role.other
    assert found["features.0.weight"] is Role.hidden
    assert found["features.0.bias"] is Role.bias
    assert found["features.1.weight"] is Role.norm
    assert found["features.1.bias"] is Role.norm
    assert found["action_net.weight"] is Role.head
    assert found["action_net.bias"] is Role.bias
    assert found["action_net_2.weight"] is Role.hidden  # a prefix of the name is not a prefix of the path
    assert found["embedding.weight"] is Role.other


def test_every_parameter_once_and_in_order():
    policy = Policy()
    groups = parameter_groups(policy, heads=["action_net"], lr=0.5)
    grouped = [p for group in groups for p in group["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, policy.parameters()))
    assert [group["role"] for group in groups] == ["hidden", "head", "norm", "bias", "other"]
    assert [group["isometric"] for group in groups] == [True, False, False, False, False]
    assert all(group["lr"] == 0.5 for group in groups)


def test_roles_follow_named_parameters():
    policy = Policy()
    assert list(roles(policy)) == [name for name, _ in policy.named_parameters()]


@pytest.mark.parametrize(
    ("isometry", "isometric"), [("none", True), ("soft", True), ("projected", False), ("hard", False)]
)
def test_layers_that_keep_themselves_orthogonal_are_left_alone(isometry, isometric):
    body = build_mlp(4, NetworkSpec(activation="maxmin", isometry=isometry))
    assert parameter_groups(body)[0]["isometric"] is isometric


def test_an_unknown_head_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"unknown head.*'acton_net'.*Did you mean 'action_net'"):
        roles(Policy(), heads=["acton_net"])


def test_one_head_by_name():
    assert roles(Policy(), heads="action_net")["action_net.weight"] is Role.head


class Noisy(nn.Linear):
    """As in NoisyNet."""

    def __init__(self, in_features, out_features):
        super().__init__(in_features, out_features)
        self.sigma = nn.Parameter(torch.rand(out_features, in_features))

    def forward(self, x):
        return F.linear(x, self.weight + self.sigma, self.bias)


class Renamed(nn.Linear):
    """A subclass that computes what its parent computes."""


def legacy_weight_norm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(nn.Linear(4, 6))


# module, its input, its roles in order, whether the isometry step can hold its weight
LAYERS = {
    "linear": (nn.Linear(4, 6), (4,), ["hidden", "bias"], True),
    "subclass": (Renamed(4, 6), (4,), ["hidden", "bias"], True),
    "1-d": (nn.Conv1d(2, 4, 3), (2, 5), ["hidden", "bias"], True),
    "2-d": (nn.Conv2d(2, 4, 3, padding="same"), (2, 5, 5), ["hidden", "bias"], True),
    "3-d": (nn.Conv3d(2, 4, 3), (2, 5, 5, 5), ["hidden", "bias"], True),
    "grouped": (nn.Conv2d(2, 4, 3, groups=2), (2, 5, 5), ["other", "bias"], False),
    "transposed": (nn.ConvTranspose2d(2, 4, 3), (2, 5, 5), ["other", "other"], None),
    "noisy": (Noisy(4, 6), (4,), ["other", "bias", "other"], False),
    "weight_norm": (parametrizations.weight_norm(nn.Linear(4, 6)), (4,), ["bias", "other", "other"], False),
    "spectral_norm": (parametrizations.spectral_norm(nn.Linear(4, 6)), (4,), ["bias", "other"], False),
    "legacy": (legacy_weight_norm(), (4,), ["bias", "other", "other"], False),
    "instance norm": (nn.InstanceNorm1d(2, affine=True), (2, 5), ["norm", "norm"], None),
    "prelu": (nn.PReLU(), (4,), ["other"], None),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_optimizer_the_penalty_and_the_diagnostics_take_the_same_layers(name):
    module, shape, expected, can_be_held = LAYERS[name]
    network = nn.Sequential(module, nn.ReLU())
    assert [role.value for role in roles(network).values()] == expected
    if can_be_held is False:
        with pytest.warns(UserWarning, match=rf"cannot hold the weights of 0 \({type(module).__name__}\)"):
            groups = parameter_groups(network)
    else:
        groups = parameter_groups(network)
    assert any(group["isometric"] for group in groups) == bool(can_be_held)
    module.eval()
    named = report(network, torch.randn(3, *shape), ["gram_deviation"]).layers
    has_matrix = "hidden" in expected or name in ("weight_norm", "spectral_norm", "legacy")
    assert bool(named) == has_matrix
    if has_matrix:
        penalty = module_gram_penalty(network)
        W = effective_weight(module).detach().flatten(1).double()
        sigma = torch.linalg.svdvals(W)
        assert penalty.item() == pytest.approx((sigma**2 - 1).square().sum().item(), rel=1e-4)
    else:
        with pytest.raises(ValueError, match="no hidden weight"):
            module_gram_penalty(network)


def test_the_spread_of_a_noisy_layer_is_left_alone():
    network = nn.Sequential(Noisy(4, 4), nn.ReLU(), nn.Linear(4, 4))
    with pytest.warns(UserWarning, match="cannot hold"):
        optimizer = AdamO(parameter_groups(network), lr=0.1, iso_lambda=1.0, iso_every=1)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer.step()
    moved = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"2.weight"}


@pytest.mark.parametrize("isometry", ["hard", "projected"])
def test_the_penalty_is_of_the_matrix_that_is_multiplied_by(isometry):
    body = build_mlp(4, NetworkSpec((6, 6), "maxmin", isometry=isometry))
    with torch.no_grad():
        for layer in (body[0], body[2]):
            layer.weight *= 3
    expected = 0.0 if isometry == "hard" else gram_penalty(3 * torch.eye(4)) + gram_penalty(3 * torch.eye(6))
    torch.testing.assert_close(module_gram_penalty(body), torch.as_tensor(expected), atol=1e-3, rtol=1e-4)


def test_a_shared_weight_counts_once():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    network = nn.Sequential(first, nn.ReLU(), second)
    torch.testing.assert_close(module_gram_penalty(network), gram_penalty(first.weight))


def test_an_unknown_head_of_a_penalty():
    with pytest.raises(ValueError, match="Did you mean 'action_net'"):
        module_gram_penalty(Policy(), heads=["acton_net"])


def test_a_weight_that_a_head_shares_is_a_head():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), nn.Linear(4, 4)
            self.head.weight = self.body[0].weight

    tied = Tied()
    assert roles(tied, ["head"])["body.0.weight"] == "head"
    held = [p for group in parameter_groups(tied, ["head"]) if group["isometric"] for p in group["params"]]
    assert [id(p) for p in held] == [id(tied.body[1].weight)]
    assert list(hidden_matrix_layers(tied, ["head"])) == ["body.1"]


def test_a_weight_that_an_embedding_shares_is_left_free():
    model = nn.ModuleDict({"layer": nn.Linear(4, 9, bias=False), "words": nn.Embedding(9, 4)})
    model["words"].weight = model["layer"].weight
    assert roles(model) == {"layer.weight": "other"}
    assert not hidden_matrix_layers(model)


def test_scripted_layers_are_left_free_and_named():
    scripted = torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.ReLU()))
    with pytest.warns(UserWarning, match=r"cannot hold the weights of 0 \(RecursiveScriptModule\)"):
        groups = parameter_groups(scripted)
    assert [group["isometric"] for group in groups] == [False]
