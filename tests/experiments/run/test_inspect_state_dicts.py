"""What `inspect` makes of a state dict, which names no activation, and of those it cannot read."""

import pytest
import torch
from torch import nn

from isorl.configs import UserError
from isorl.experiments.run.agent_file import chain_of_linears, read_state_dict
from isorl.experiments.run.inspect import WEIGHT_METRICS, inspect, probe_batch
from isorl.plasticity.diagnostics import report


def test_state_dict_of_a_plain_network(tmp_path):
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    reports = inspect(tmp_path / "weights.pt", "CartPole-v1", "relu", None, size=16)
    _, observations = probe_batch("CartPole-v1", 16, seed=0)
    expected = report(nn.Sequential(nn.Flatten(), *network), torch.as_tensor(observations)).values
    assert reports["network"].values["layer_jacobian_max"] == pytest.approx(expected["layer_jacobian_max"])
    assert "taken for" in reports["network"].notes[-1]
    bare = inspect(tmp_path / "weights.pt", "CartPole-v1", size=16)["network"]
    assert set(bare.values) == set(WEIGHT_METRICS)
    assert bare.values["gram_deviation"] == pytest.approx(expected["gram_deviation"])


OTHER_NETWORKS = {
    "two linears in a row": (nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), r"1\.weight"),
    "something between": (
        nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 4)),
        r"3\.weight",
    ),
    "a norm": (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4)), r"1\.weight"),
    "names": (nn.ModuleDict({"fc1": nn.Linear(4, 4), "fc2": nn.Linear(4, 2)}), r"fc1\.weight"),
    "two networks": (
        nn.ModuleDict({"a": nn.Sequential(nn.Linear(4, 4)), "b": nn.Sequential(nn.Linear(4, 4))}),
        "b",
    ),
    "lstm": (nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.LSTM(4, 4)), r"2\.weight_ih_l0"),
    "lstm alone": (nn.LSTM(4, 4), "weight_ih_l0"),
    "convolution": (nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Flatten()), r"0\.weight"),
    "other sizes": (nn.ModuleList([nn.Linear(4, 8), nn.ReLU(), nn.Linear(4, 8)]), r"2\.weight"),
    "nothing": (nn.Sequential(), "no layers"),
}


@pytest.mark.parametrize(("network", "named"), OTHER_NETWORKS.values(), ids=OTHER_NETWORKS)
def test_other_state_dicts_are_refused_by_key(tmp_path, network, named):
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(UserError, match=named):
        chain_of_linears(read_state_dict(tmp_path / "weights.pt"), "relu")


def test_weights_are_a_mapping_of_tensors(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="no state dict"):
        read_state_dict(tmp_path / "list.pt")
