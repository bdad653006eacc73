import copy
import math
import pickle
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from isorl.plasticity import (
    AdamO,
    NetworkSpec,
    build_mlp,
    build_nature_cnn,
    initialise_,
    parameter_groups,
    project_,
)
from isorl.plasticity.networks import (
    ACTIVATIONS,
    GroupSort,
    MaxMin,
    body_for,
    build_body,
    build_small_cnn,
    describe_body,
    effective_weight,
)
from isorl.plasticity.networks.isometric import IsometricLinear, PatchConv2d, Shift


def layer_jacobian(layer, x):
    J = torch.autograd.functional.jacobian(lambda v: layer(v[None])[0].flatten(), x)
    return J.flatten(1)


def test_the_plain_mlp_is_sb3s():
    torch.manual_seed(0)
    ours = build_mlp(4, NetworkSpec(activation="tanh"))
    torch.manual_seed(0)
    theirs = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
    assert [type(m) for m in ours] == [type(m) for m in theirs]
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert ours.out_features == 64


def test_the_plain_cnn_is_sb3s():
    torch.manual_seed(0)
    ours = build_nature_cnn((4, 84, 84), NetworkSpec())
    after = torch.rand(1)
    torch.manual_seed(0)
    convs = [
        nn.Conv2d(4, 32, 8, 4),
        nn.ReLU(),
        nn.Conv2d(32, 64, 4, 2),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, 1),
        nn.ReLU(),
    ]
    theirs = nn.Sequential(*convs, nn.Flatten(), nn.Linear(3136, 512), nn.ReLU())
    assert torch.equal(after, torch.rand(1))
    assert [type(m) for m in ours] == [type(m) for m in theirs]
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert ours.out_features == 512


def test_the_small_cnn_is_minatars():
    torch.manual_seed(0)
    ours = build_small_cnn((4, 10, 10), NetworkSpec())
    torch.manual_seed(0)
    theirs = nn.Sequential(nn.Conv2d(4, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 128), nn.ReLU())
    assert [type(m) for m in ours] == [type(m) for m in theirs]
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert ours.out_features == 128


@pytest.mark.parametrize("isometry", ["soft", "projected", "hard"])
def test_the_isometric_small_cnn_loses_nothing_before_it_shrinks(isometry, device):
    spec = NetworkSpec(activation="maxmin", isometry=isometry, convolutions="patches")
    body = build_small_cnn((7, 10, 10), spec).double().to(device)
    x = torch.randn(7, 10, 10, dtype=torch.double, device=device)
    sigma = torch.linalg.svdvals(layer_jacobian(body[:3], x))  # patches, MaxMin, flattened
    torch.testing.assert_close(sigma, torch.ones_like(sigma), atol=1e-6, rtol=0)
    assert len(sigma) == 700
    assert torch.linalg.svdvals(layer_jacobian(body, x)).max() <= 1 + 1e-6
    assert body[3].in_features == 1024


BODIES_BY_SHAPE = [
    ((5,), "mlp"), ((), "mlp"), ((3, 2, 9), "mlp"), ((1, 7, 7), "small_cnn"), ((3, 35, 90), "small_cnn"),
    ((4, 36, 36), "nature_cnn"),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "body"), BODIES_BY_SHAPE)
def test_a_body_is_chosen_by_size(shape, body):
    assert body_for(shape, NetworkSpec()) == body
    assert body_for(shape, NetworkSpec(body="mlp")) == "mlp"


def test_a_body_can_be_asked_for_and_described():
    image = (4, 40, 40)
    assert build_body(image, NetworkSpec(body="small_cnn")).out_features == 128
    assert build_body(image, NetworkSpec((8, 6), body="mlp"))(torch.ones(2, 6400)).shape == (2, 6)
    assert describe_body(image, NetworkSpec((8, 6), body="mlp")) == "MLP 6400-8-6 on flattened images"
    assert describe_body((4,), NetworkSpec((8,))) == "MLP 4-8"
    assert describe_body(image, NetworkSpec()) == "Nature CNN on 4 x 40 x 40"
    assert describe_body(image, NetworkSpec(isometry="soft")) == "Nature CNN on 4 x 40 x 40"
    patches = NetworkSpec(isometry="soft", convolutions="patches")
    assert describe_body(image, patches) == "Nature CNN of patches on 4 x 40 x 40"
    with pytest.raises(ValueError, match="small_cnn needs images, but observations have shape \\(4,\\)"):
        body_for((4,), NetworkSpec(body="small_cnn"))
    with pytest.raises(ValueError, match="at least 3 x 3, got 2 x 9"):
        build_small_cnn((1, 2, 9), NetworkSpec())


def test_initialise_is_sb3s_orthogonal_initialisation():
    spec = NetworkSpec(gain=math.sqrt(2))
    body = build_mlp(4, spec)
    twin = copy.deepcopy(body)
    torch.manual_seed(5)
    initialise_(body, spec)
    torch.manual_seed(5)
    for layer in twin:
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight, gain=math.sqrt(2))
            layer.bias.data.fill_(0.0)
    assert all(torch.equal(p, q) for p, q in zip(body.parameters(), twin.parameters(), strict=True))


def test_without_a_gain_a_plain_body_is_left_to_its_caller():
    body = build_mlp(4, NetworkSpec())
    twin = copy.deepcopy(body)
    initialise_(body, NetworkSpec())
    assert all(torch.equal(p, q) for p, q in zip(body.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize("isometry", ["soft", "projected", "hard"])
@pytest.mark.parametrize("activation", ["maxmin", "groupsort"])
def test_an_isometric_mlp_is_an_isometry_where_it_does_not_shrink(isometry, activation, device):
    spec = NetworkSpec((32, 48, 48, 16), activation, isometry=isometry)
    body = build_mlp(32, spec).double().to(device)
    x = torch.randn(32, dtype=torch.double, device=device)
    growing = body[:6]
    sigma = torch.linalg.svdvals(layer_jacobian(growing, x))
    torch.testing.assert_close(sigma, torch.ones_like(sigma), atol=1e-6, rtol=0)
    assert torch.linalg.svdvals(layer_jacobian(body, x)).max() <= 1 + 1e-6


@pytest.mark.parametrize("isometry", ["projected", "hard"])
@pytest.mark.parametrize("lr", [3e-3, 0.1])
def test_isometry_holds_throughout_training(isometry, lr, device):
    """Three and a hundred times a usual learning rate: every layer stays within 1e-3 of an isometry."""
    if lr > 0.01 and isometry == "projected" and device.type == "cuda":
        pytest.skip("a GPU makes six iterations, too few for so large a step; see newton_schulz_")
    body = build_mlp(32, NetworkSpec((32, 64, 64), "maxmin", isometry=isometry)).to(device)
    cnn = build_nature_cnn(
        (2, 24, 24), NetworkSpec((), "maxmin", isometry=isometry, convolutions="patches"), 64
    ).to(device)
    head, head2 = nn.Linear(64, 5).to(device), nn.Linear(64, 5).to(device)
    parameters = [*body.parameters(), *cnn.parameters(), *head.parameters(), *head2.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=lr)
    x, y = torch.randn(64, 32, device=device), torch.randint(0, 5, (64,), device=device)
    images = torch.rand(64, 2, 24, 24, device=device)
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(head(body(x)), y) + nn.functional.cross_entropy(
            head2(cnn(images)), y
        )
        loss.backward()
        optimizer.step()
        project_(body)
        project_(cnn)
        for layer in (*body, *cnn):
            if isinstance(layer, IsometricLinear | PatchConv2d):
                sigma = torch.linalg.svdvals(effective_weight(layer).detach().flatten(1))
                assert (sigma - 1).abs().max() < 1e-3


def test_a_hard_relu_network_keeps_learning_new_targets():
    """Nothing holds the raw weights: their condition number reaches 1e4, at which W W^T is lost to rounding."""
    network = nn.Sequential(build_mlp(8, NetworkSpec((64, 64), "relu", isometry="hard")), nn.Linear(64, 3))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    x, last = torch.randn(256, 8), []
    for update in range(900):
        if update % 150 == 0:
            y = torch.randn(256, 3)
        loss = (network(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if update % 150 == 149:
            last.append(loss.item())
            sigma = torch.linalg.svdvals(effective_weight(network[0][2]).detach())
            torch.testing.assert_close(sigma, torch.full_like(sigma, math.sqrt(2)), rtol=0, atol=1e-5)
    assert max(last) < 0.75


@pytest.mark.parametrize("isometry", ["soft", "projected", "hard"])
def test_the_isometric_cnn_layer_by_layer(isometry, device):
    body = (
        build_nature_cnn(
            (4, 12, 12), NetworkSpec((), "maxmin", isometry=isometry, convolutions="patches"), 64
        )
        .double()
        .to(device)
    )
    x = torch.rand(4, 12, 12, dtype=torch.double, device=device)
    for layer in body:
        sigma = torch.linalg.svdvals(layer_jacobian(layer, x))
        assert sigma.max() <= 1 + 1e-6
        torch.testing.assert_close(
            sigma[sigma > 1e-9], torch.ones_like(sigma[sigma > 1e-9]), atol=1e-6, rtol=0
        )
        with torch.no_grad():
            y = layer(x[None])[0]
        if y.numel() >= x.numel():
            assert sigma.min() > 1 - 1e-6
        x = y


@given(st.integers(1, 3), st.integers(5, 20), st.integers(5, 20))
def test_the_isometric_cnn_is_1_lipschitz_for_any_image_size(channels, height, width):
    torch.manual_seed(0)
    body = build_nature_cnn(
        (channels, height, width), NetworkSpec((), "maxmin", isometry="projected", convolutions="patches"), 16
    ).double()
    x, y = torch.rand(2, 8, channels, height, width, dtype=torch.double)
    with torch.no_grad():
        stretch = (body(x) - body(y)).norm(dim=1) / (x - y).flatten(1).norm(dim=1)
    assert stretch.max() <= 1 + 1e-9


def test_shift_and_orthogonal_mixes_make_an_overlapping_orthogonal_convolution():
    """Every output pixel of mix, shift, mix sees three pixels, and the whole map is orthogonal."""
    mixes = [PatchConv2d(8, 8, 1, "hard") for _ in range(2)]
    net = nn.Sequential(mixes[0], Shift(), mixes[1]).double()
    x = torch.rand(8, 4, 4, dtype=torch.double)
    J = layer_jacobian(net, x)
    torch.testing.assert_close(J @ J.T, torch.eye(128, dtype=torch.double))
    seen = J.reshape(8, 4, 4, 8, 4, 4)[:, 2, 2].abs().sum((0, 1)) > 1e-9
    assert seen.sum() == 3


def test_the_isometric_cnn_is_patches_of_4_3_and_1_with_shifts_between():
    body = build_nature_cnn((4, 84, 84), NetworkSpec((), "maxmin", isometry="soft", convolutions="patches"))
    parts = [
        layer.step if isinstance(layer, Shift) else layer.kernel_size[0]
        for layer in body
        if isinstance(layer, Shift | PatchConv2d)
    ]
    assert parts == [4, 1, 3, 1, 1], "convolution 4, shift 1, convolution 3, shift 1, convolution 1"
    x = torch.rand(1, 4, 84, 84)
    shapes = [tuple((x := layer(x)).shape[1:]) for layer in body]
    assert [shape for shape in dict.fromkeys(shapes)] == [(64, 21, 21), (64, 7, 7), (3136,), (512,)]


@pytest.mark.parametrize("isometry", ["none", "soft", "projected", "hard"])
@pytest.mark.parametrize("body", ["nature_cnn", "small_cnn"])
def test_any_isometry_has_convolutions_of_both_kinds(body, isometry):
    """Of overlapping ones the reshaped kernels are orthogonal, and layers stretch by up to kernel / stride."""
    image = (4, 36, 36)
    spec = NetworkSpec((), "maxmin", isometry=isometry, body=body)
    overlapping, patches = (
        build_body(image, replace(spec, convolutions=kind)) for kind in ("overlapping", "patches")
    )
    geometry = {"nature_cnn": [(8, 4), (4, 2), (3, 1)], "small_cnn": [(3, 1)]}[body]
    layers = [layer for layer in overlapping if isinstance(layer, nn.Conv2d)]
    assert [(layer.kernel_size[0], layer.stride[0]) for layer in layers] == geometry
    assert not any(isinstance(layer, Shift | PatchConv2d) for layer in overlapping)
    assert all(isinstance(layer, PatchConv2d) for layer in patches if isinstance(layer, nn.Conv2d))
    assert str(build_body(image, spec)) == str(overlapping)
    auto = build_body(
        image, replace(spec, convolutions="auto")
    )  # what earlier versions made, as saved runs have it
    assert str(auto) == str(overlapping if isometry == "none" else patches)
    if isometry == "none":
        return
    for layer in layers:
        sigma = torch.linalg.svdvals(effective_weight(layer).detach().flatten(1))
        torch.testing.assert_close(sigma, torch.ones_like(sigma))
        side = layer.kernel_size[0] + layer.stride[0]  # two positions that overlap
        jacobian = layer_jacobian(layer, torch.rand(layer.in_channels, side, side))
        stretch = torch.linalg.svdvals(jacobian).max()
        assert 1 < stretch <= layer.kernel_size[0] / layer.stride[0] + 1e-5


def test_patches_and_spectral_norm_are_refused():
    with pytest.raises(ValueError, match="use convolutions='overlapping'"):
        NetworkSpec(spectral_norm=True, convolutions="patches")
    with pytest.raises(ValueError, match="Did you mean 'patches'"):
        NetworkSpec(convolutions="patch")


def test_patch_convolutions_agree_with_orthogonium():
    """Orthogonium's adaptive orthogonal convolution at stride = kernel is the same kind of map."""
    orthogonium = pytest.importorskip("orthogonium.layers.conv.AOC", exc_type=ImportError)
    theirs = orthogonium.AdaptiveOrthoConv2d(4, 16, kernel_size=2, stride=2, padding=0, bias=False)
    ours = PatchConv2d(4, 16, 2, "none")
    with torch.no_grad():
        ours.weight.copy_(theirs.weight)
        ours.bias.zero_()
    x = torch.randn(3, 4, 8, 8)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
    sigma = torch.linalg.svdvals(ours.weight.detach().flatten(1))
    torch.testing.assert_close(sigma, torch.ones_like(sigma), atol=1e-3, rtol=0)


def test_sorting_activations_by_hand():
    x = torch.tensor([[3.0, 1.0, 2.0, 5.0]])
    assert MaxMin()(x).tolist() == [[3.0, 5.0, 2.0, 1.0]]
    assert GroupSort(4)(x).tolist() == [[1.0, 2.0, 3.0, 5.0]]
    assert GroupSort(2)(x).tolist() == [[1.0, 3.0, 2.0, 5.0]]
    image = torch.randn(2, 6, 3, 3)
    assert torch.equal(MaxMin(-3)(image)[0], MaxMin(-3)(image[0]))
    assert torch.equal(MaxMin(-3)(image)[:, :, 1, 2], MaxMin()(image[:, :, 1, 2]))
    assert torch.autograd.functional.jacobian(MaxMin(), torch.ones(2)).sum(0).tolist() == [1, 1]  # a tie


def test_maxmin_agrees_with_torchlip():
    torchlip = pytest.importorskip("deel.torchlip", exc_type=ImportError)
    x = torch.randn(5, 8)
    theirs = torchlip.GroupSort2()(x.reshape(5, 2, 4).transpose(1, 2).reshape(5, 8))
    torch.testing.assert_close(theirs.sort(1).values, MaxMin()(x).sort(1).values)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_builds_every_body(name):
    spec = NetworkSpec(widths=(16, 8), activation=name, layer_norm=True)
    assert build_mlp(3, spec)(torch.randn(2, 3)).shape == (2, 8)
    assert build_nature_cnn((1, 36, 36), spec, 16)(torch.rand(2, 1, 36, 36)).shape == (2, 16)


def test_a_body_without_widths_is_the_identity():
    body = build_mlp(3, NetworkSpec(widths=()))
    x = torch.randn(2, 3)
    assert body.out_features == 3
    assert torch.equal(body(x), x)


@pytest.mark.parametrize("isometry", ["projected", "hard"])
def test_isometric_bodies_pickle_copy_and_reload(isometry):
    body = build_mlp(4, NetworkSpec((8, 8), "maxmin", isometry=isometry))
    x = torch.randn(3, 4)
    other = build_mlp(4, NetworkSpec((8, 8), "maxmin", isometry=isometry))
    other.load_state_dict(body.state_dict())
    for twin in (pickle.loads(pickle.dumps(body)), copy.deepcopy(body), other):
        assert torch.equal(twin(x), body(x))


def test_soft_isometry_is_held_by_adamo():
    body = build_mlp(16, NetworkSpec((16, 16), "maxmin", isometry="soft"))
    plain = copy.deepcopy(body)

    def deviation(net, make):
        optimizer = make(parameter_groups(net))
        x, y = torch.randn(32, 16), 3 * torch.randn(32, 16)
        for _ in range(200):
            optimizer.zero_grad()
            (net(x) - y).square().mean().backward()
            optimizer.step()
        return max((torch.linalg.svdvals(m.weight.detach()) - 1).abs().max().item() for m in (net[0], net[2]))

    free = deviation(plain, lambda groups: torch.optim.Adam(groups, lr=1e-2))
    held = deviation(body, lambda groups: AdamO(groups, lr=1e-2, iso_lambda=1.0, iso_every=1))
    assert held < 0.3 * free


def test_row_normalisation_alone_is_not_an_isometry():
    """Rows divided by their norm without being orthogonal: sigma_max reaches sqrt(O)."""
    W = torch.randn(1, 8).expand(8, 8) + 0.01 * torch.randn(8, 8)
    W = W / W.norm(dim=1, keepdim=True)
    assert torch.linalg.svdvals(W).max() > 2.8
    Q = nn.init.orthogonal_(torch.empty(8, 8))
    torch.testing.assert_close(
        Q / Q.norm(dim=1, keepdim=True), Q
    )  # on an orthogonal weight it changes nothing


def test_an_odd_width_names_the_nearest():
    with pytest.raises(ValueError, match=r"maxmin .* width of 33 .* nearest that fits is 34"):
        NetworkSpec(widths=(64, 33), activation="maxmin")
    with pytest.raises(ValueError, match=r"width of 510 .* nearest that fits is 512"):
        build_nature_cnn((4, 84, 84), NetworkSpec(activation="groupsort"), features=510)


@pytest.mark.parametrize(
    ("activation", "group", "nearest"),
    [("maxmin", 2, {1: 2, 3: 4, 33: 34}), ("groupsort", 4, {1: 4, 5: 4, 6: 8, 7: 8, 9: 8, 510: 512})],
)
def test_the_nearest_width_is_a_multiple_and_no_other_is_nearer(activation, group, nearest):
    for width, expected in nearest.items():
        assert abs(expected - width) == min(abs(k * group - width) for k in range(1, 200))
        with pytest.raises(ValueError, match=rf"sorts groups of {group} .* nearest that fits is {expected}$"):
            NetworkSpec((width,), activation)
        NetworkSpec((expected,), activation)


def test_gains_keep_the_scale_of_what_is_positive_and_negative_alike():
    """sqrt(2 / (1 + slope^2)) by torch's own rule (He et al. 2015, eq. 15), with the slopes of torch's modules."""
    for name, slope in (
        ("relu", 0.0),
        ("leaky_relu", nn.LeakyReLU().negative_slope),
        ("prelu", nn.PReLU().weight.item()),
    ):
        gain = nn.init.calculate_gain("leaky_relu", slope)
        assert ACTIVATIONS[name].gain == pytest.approx(gain, rel=1e-6)
        layer = build_mlp(64, NetworkSpec((64,), name, isometry="soft"))[0]
        torch.testing.assert_close(
            torch.linalg.svdvals(layer.weight.detach()), torch.full((64,), gain), rtol=1e-5, atol=0
        )
        z = torch.randn(100_000, generator=torch.Generator().manual_seed(0), dtype=torch.double)
        scale = gain**2 * ACTIVATIONS[name].build(-1).double()(z).square().mean()
        assert scale.item() == pytest.approx(1, rel=0.02)


BAD = [
    ({"body": "small_cn"}, "Did you mean 'small_cnn'"),
    ({"activation": "rleu"}, "unknown activation 'rleu'. Did you mean 'relu'"),
    ({"isometry": "projectd"}, "Did you mean 'projected'"),
    ({"widths": (0,)}, "at least 1"),
    ({"gain": -1.0}, "must be positive"),
    ({"isometry": "hard", "layer_norm": True}, "not be 1-Lipschitz"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=str)
def test_bad_specifications(options, message):
    with pytest.raises(ValueError, match=message):
        NetworkSpec(**options)


def test_small_images_are_refused_with_a_way_out():
    with pytest.raises(ValueError, match="at least 36 x 36, got 10 x 10"):
        build_nature_cnn((4, 10, 10), NetworkSpec())
    assert (
        build_nature_cnn(
            (4, 10, 10), NetworkSpec(activation="maxmin", isometry="soft", convolutions="patches")
        ).out_features
        == 512
    )
