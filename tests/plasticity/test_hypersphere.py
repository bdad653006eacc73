"""The SimbaV2 body against its equations, written once more in numpy, and what may stand around it."""

import numpy as np
import pytest
import torch
from torch import nn

from isorl.plasticity import AdamO, NetworkSpec, build_mlp, build_nature_cnn, parameter_groups, project_
from isorl.plasticity.networks.hypersphere import UnitRows

SPEC = NetworkSpec(widths=(16, 16, 16), architecture="simba_v2")


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def by_hand(state, x, width, blocks):
    """Appendix and code of the paper, one sample after the other."""
    found = []
    for sample in x:
        e = unit(np.append(sample, 3.0))
        z = unit(state["0.scale.parameter"] * (state["0.linear.weight"] @ e))
        for b in range(1, blocks + 1):
            h = state[f"{b}.inner.weight"] @ z
            h = np.maximum(state[f"{b}.scale.parameter"] * h, 0)
            m = unit(state[f"{b}.outer.weight"] @ (h + 1e-8))
            alpha = state[f"{b}.alpha.parameter"] * (1 / (blocks + 1)) * np.sqrt(width)
            z = unit((1 - alpha) * z + alpha * m)
        found.append(z)
    return np.stack(found)


def test_the_body_is_its_equations():
    body = build_mlp(5, SPEC)
    with torch.no_grad():
        for parameter in body.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape))
    x = torch.randn(7, 5)
    state = {name: value.numpy() for name, value in body.state_dict().items()}
    expected = by_hand(state, x.numpy(), 16, 2)
    np.testing.assert_allclose(body(x).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_features_and_rows_have_norm_one_and_stay_so():
    body = build_mlp(5, SPEC)
    optimizer = torch.optim.Adam(body.parameters(), lr=1e-2)
    for _ in range(5):
        body(torch.randn(8, 5))[:, 0].sum().backward()
        optimizer.step()
        project_(body)
    rows = [layer.weight.norm(dim=1) for layer in body.modules() if isinstance(layer, UnitRows)]
    assert len(rows) == 5
    torch.testing.assert_close(torch.cat(rows), torch.ones(sum(map(len, rows))))
    torch.testing.assert_close(body(torch.randn(8, 5)).norm(dim=1), torch.ones(8))


def test_scales_are_learned_from_where_the_authors_begin():
    """Their init / scale trick: what Adam moves is the parameter, whose size is its relative learning rate."""
    first, block = build_mlp(5, SPEC)[:2]
    for scale, size in (
        (first.scale, (2 / 16) ** 0.5),
        (block.scale, (2 / 16 / 4) ** 0.5),
        (block.alpha, 1 / 4),
    ):
        torch.testing.assert_close(scale.parameter, torch.full_like(scale.parameter, size))
    torch.testing.assert_close(first.scale(torch.ones(1, 16)), torch.full((1, 16), (2 / 16) ** 0.5))


def test_alpha_begins_at_one_over_blocks_plus_one():
    block = build_mlp(5, SPEC)[1]
    torch.testing.assert_close(block.alpha(torch.ones(1, 16)), torch.full((1, 16), 1 / 3))


def test_images_pass_the_nature_convolutions_first():
    body = build_nature_cnn((2, 36, 36), SPEC, features=32)
    assert sum(isinstance(m, nn.Conv2d) for m in body) == 3
    torch.testing.assert_close(body(torch.rand(3, 2, 36, 36)).norm(dim=1), torch.ones(3))
    assert body.out_features == 32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"isometry": "soft"}, "isometry='soft' cannot combine"),
        ({"activation": "maxmin"}, "activation='maxmin' cannot combine"),
        ({"layer_norm": True}, "layer_norm=True cannot combine"),
        ({"widths": (8, 16)}, r"one width, got widths \[8, 16\]"),
        ({"widths": ()}, "one width"),
        ({"architecture": "simba"}, "simba_v2"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NetworkSpec(**{"widths": (16, 16), "architecture": "simba_v2", **options})


def test_no_isometry_step_touches_unit_rows():
    network = nn.Sequential(build_mlp(5, SPEC), nn.Linear(16, 2))
    groups = parameter_groups(network, heads=["1"])
    assert not any(group["isometric"] for group in groups)
    AdamO(groups)
