import pytest
import torch
from torch import nn

from isorl.plasticity import NetworkSpec, Role, build_mlp, build_nature_cnn, parameter_groups, roles


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
