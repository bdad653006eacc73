"""Methods that act on weights: resets, shrink and perturb, normalise-and-project, and the optimizers."""

import copy

import pytest
import torch
from torch import nn

from isorl.plasticity.methods.adam_betas import AdamBetas
from isorl.plasticity.methods.full_reset import FullReset
from isorl.plasticity.methods.head_reset import HeadReset
from isorl.plasticity.methods.layer_reset import LayerReset
from isorl.plasticity.methods.muon import MuonAdam
from isorl.plasticity.methods.normalise_and_project import NormaliseAndProject
from isorl.plasticity.methods.shrink_and_perturb import ShrinkAndPerturb
from isorl.plasticity.methods.trac import BETAS, TracAdam, erfi
from isorl.plasticity.networks import SpectralConv2d, SpectralLinear
from isorl.plasticity.roles import parameter_groups
from tests.plasticity.methods.conftest import Trained, mlp


def values(network):
    return [p.detach().clone() for p in network.parameters()]


def reset(method, **networks):
    """Which parameters of the network "q" a switch changed, and whether their moments are gone."""
    trained = Trained(method, targets={"q": copy.deepcopy(networks["q"])}, **networks)
    for _ in range(2):
        trained.step(torch.randn(5, 3))
    before = values(networks["q"])
    trained.methods.on_switch()
    changed = [not torch.equal(p, old) for p, old in zip(networks["q"].parameters(), before, strict=True)]
    gone = [p not in trained.optimizer.state for p in networks["q"].parameters()]
    for ours, target in zip(
        networks["q"].parameters(), trained.learner.targets["q"].parameters(), strict=True
    ):
        assert torch.equal(ours, target)
    return changed, gone


@pytest.mark.parametrize(
    ("method", "layers"),
    [(HeadReset(), 1), (LayerReset(layers=2), 2), (LayerReset(layers=9), 3), (FullReset(), 3)],
)
def test_resets_redraw_what_they_say_with_moments_and_target(method, layers):
    changed, gone = reset(method, q=mlp(3, 6, 5, 2))
    assert changed == [False] * 2 * (3 - layers) + [True] * 2 * layers
    assert gone == changed


def test_layer_reset_takes_the_norms_of_its_layers():
    network = nn.Sequential(
        nn.Sequential(
            nn.Linear(3, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 5), nn.LayerNorm(5), nn.ReLU()
        ),
        nn.Linear(5, 2),
    )
    changed, _ = reset(LayerReset(layers=2), q=network)
    assert changed == [False] * 4 + [True] * 6


def test_a_reset_every_n_updates_acts_then_and_not_at_switches():
    network = mlp(3, 4, 2)
    trained = Trained(HeadReset(every=3), q=network)
    trained.methods.on_switch()
    head_state = []
    for _ in range(6):
        trained.step(torch.randn(5, 3))
        head_state.append(network[1].weight in trained.optimizer.state)
    assert head_state == [True, True, False, True, True, False]


def test_shrink_and_perturb_by_hand():
    network = mlp(3, 4, 2)
    trained = Trained(ShrinkAndPerturb(shrink=0.25, noise=0.0), q=network)
    before = values(network)
    trained.methods.on_switch()
    for parameter, old in zip(network.parameters(), before, strict=True):
        assert torch.equal(parameter, old * 0.25)


def test_the_noise_has_the_scale_of_the_initialisation():
    network = mlp(100, 200, 1)
    initial = network[0][0].weight.detach().clone()
    trained = Trained(ShrinkAndPerturb(shrink=1.0, noise=0.1), q=network)
    trained.methods.on_switch()
    noise = network[0][0].weight.detach() - initial
    assert float(noise.std()) == pytest.approx(0.1 * float(initial.std()), rel=0.05)


def test_normalise_and_project_keeps_norms_and_the_function():
    network = nn.Sequential(
        nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6, eps=0), nn.ReLU()), nn.Linear(6, 2)
    )
    trained = Trained(NormaliseAndProject(), q=network)
    norm = network[0][0].weight.detach().norm()
    x = torch.randn(5, 3)
    with torch.no_grad():
        network[0][0].weight.mul_(3.0)
        network[0][0].bias.mul_(2.0)
    expected = network(x)
    trained.methods.after_update(None)
    torch.testing.assert_close(network[0][0].weight.norm(), norm)
    torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize("conv", [False, True])
def test_spectral_norm_is_torchs(conv):
    ours = SpectralConv2d(2, 4, 3, 1) if conv else SpectralLinear(5, 4)
    plain = nn.Conv2d(2, 4, 3) if conv else nn.Linear(5, 4)
    plain.load_state_dict({"weight": ours.weight, "bias": ours.bias})
    theirs = nn.utils.parametrizations.spectral_norm(plain)
    spectral = theirs.parametrizations.weight[0]
    spectral._u.copy_(ours.running_u)
    matrix = ours.weight.detach().flatten(1)
    spectral._v.copy_(nn.functional.normalize(matrix.T @ ours.running_u, dim=0))
    x = torch.randn(3, 2, 6, 6) if conv else torch.randn(3, 5)
    for _ in range(30):  # the two order their half iterations differently, and meet where they converge
        a, b = ours(x), theirs(x)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    (ga,) = torch.autograd.grad(a.square().sum(), ours.weight)
    (gb,) = torch.autograd.grad(b.square().sum(), theirs.parametrizations.weight.original)
    torch.testing.assert_close(ga, gb, rtol=1e-3, atol=1e-4)


def test_spectral_norm_in_evaluation_leaves_its_buffer():
    layer = SpectralLinear(5, 4).eval()
    before = layer.running_u.clone()
    layer(torch.randn(2, 5))
    assert torch.equal(layer.running_u, before)


def test_adam_betas_refuses_what_has_none():
    assert AdamBetas(0.5).optimizer(torch.optim.Adam, {"eps": 1})[1] == {"eps": 1, "betas": (0.5, 0.5)}
    with pytest.raises(ValueError, match="the optimizer is SGD"):
        AdamBetas().optimizer(torch.optim.SGD, {})


def test_erfi_is_scipys():
    special = pytest.importorskip("scipy.special")
    x = torch.linspace(-12, 12, 101, dtype=torch.float64)
    torch.testing.assert_close(erfi(x), torch.as_tensor(special.erfi(x.numpy())), rtol=1e-9, atol=1e-12)


def descend(optimizer, parameters, targets, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        sum((p - t).square().sum() for p, t in zip(parameters, targets, strict=True)).backward()
        optimizer.step()


def trac_by_hand(theta, target, lr, steps):
    """One tensor, one loss |theta - target|^2: the equations of the paper, tuner by tuner, in double precision."""
    special = pytest.importorskip("scipy.special")
    reference, m, v = theta.clone(), 0, 0
    s, variance, sigma = [0.0] * 6, [0.0] * 6, [1e-8] * 6
    for step in range(1, steps + 1):
        g = 2 * (theta - target)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        update = -lr * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
        delta = (theta - reference) / (sum(s) + 1e-8)
        h = float((delta * g).sum())
        for j, beta in enumerate(BETAS):
            variance[j] = beta**2 * variance[j] + h**2
            sigma[j] = beta * sigma[j] - h
            argument = sigma[j] / (2**0.5 * variance[j] ** 0.5 + 1e-8)
            s[j] = 1e-8 / special.erfi(0.5**0.5) * special.erfi(argument)
        theta = reference + max(sum(s), 0.0) * (delta + update)
    return theta


def test_trac_follows_its_equations():
    torch.manual_seed(0)
    theta = nn.Parameter(torch.randn(4, 3, dtype=torch.float64))
    target = torch.randn(4, 3, dtype=torch.float64)
    expected = trac_by_hand(theta.detach().clone(), target, 0.1, 60)
    descend(TracAdam([theta], lr=0.1), [theta], [target], 60)
    torch.testing.assert_close(theta.detach(), expected, rtol=1e-6, atol=1e-9)
    assert (theta.detach() - target).norm() < 12


def test_trac_agrees_with_its_authors_code(tmp_path):
    trac_optimizer = pytest.importorskip("trac_optimizer")
    ours, theirs = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    target = torch.linspace(-1, 1, 5)
    cls = trac_optimizer.start_trac(str(tmp_path / "log"), torch.optim.Adam)
    # the authors' code hands its base a closure argument, and rounds to single precision
    descend(TracAdam([ours], lr=0.1), [ours], [target], 40)
    descend(cls([theirs], lr=0.1), [theirs], [target], 40)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_muon_is_torchs_muon_on_hidden_matrices_and_adam_elsewhere():
    ours, x = mlp(3, 4, 5, 2), torch.randn(6, 3)
    theirs = copy.deepcopy(ours)
    optimizer = MuonAdam(parameter_groups(ours, heads=["1"]), lr=1e-2, eps=1e-5)
    hidden = [theirs[0][0].weight, theirs[0][2].weight]
    rest = [p for p in theirs.parameters() if not any(p is h for h in hidden)]
    pair = [
        torch.optim.Muon(hidden, lr=1e-2, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.Adam(rest, lr=1e-2, eps=1e-5),
    ]
    for _ in range(4):
        for network, optimizers in ((ours, [optimizer]), (theirs, pair)):
            for one in optimizers:
                one.zero_grad()
            network(x).square().sum().backward()
            for one in optimizers:
                one.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
