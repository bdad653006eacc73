"""What AdamO refuses: options and weights for which its step has no meaning."""

import math
import warnings

import pytest
import torch
from torch import nn

from isorl.plasticity import AdamO, parameter_groups

BAD = [
    ({"iso_lambda": -0.1}, "iso_lambda must be finite and not negative, got -0.1"),
    ({"iso_lambda": math.nan}, "iso_lambda must be finite"),
    ({"iso_lr": -1.0}, "iso_lr must be"),
    ({"iso_target": 0.0}, "iso_target is a squared singular value"),
    ({"iso_every": 0}, "iso_every counts updates"),
    ({"iso_every": 1.5}, "iso_every counts updates"),
    ({"lr": -1.0}, "Invalid learning rate"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=str)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        AdamO(parameter_groups(nn.Linear(3, 3)), **options)


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        (torch.zeros(3, 3, dtype=torch.complex64), "dense real weights"),
        (torch.eye(3).to_sparse(), "dense real weights"),
        (torch.zeros(3), "no weight of two dimensions"),
    ],
)
def test_weights_that_have_no_isometry_step(parameter, message):
    with pytest.raises(ValueError, match=message):
        AdamO([{"params": [nn.Parameter(parameter)], "isometric": True}])


def test_empty_groups():
    with pytest.raises(ValueError, match="no weight of two dimensions"):
        AdamO([{"params": [], "isometric": True}])
    with pytest.raises(ValueError, match="empty parameter list"):
        AdamO([])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_too_coarse_for_the_isometry_step_are_warned_of(dtype):
    network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).to(dtype)
    groups = parameter_groups(network, heads=["2"])
    with pytest.warns(UserWarning, match=f"weights of {dtype} round most of the isometry step away"):
        AdamO(groups)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AdamO(parameter_groups(network, heads=["2"]), iso_lambda=0)
        AdamO(parameter_groups(network.double(), heads=["2"]))


def test_weights_without_a_shape():
    with pytest.raises(ValueError, match="lazy parameters, which have no shape yet: pass a batch"):
        AdamO(nn.LazyLinear(3).parameters())
