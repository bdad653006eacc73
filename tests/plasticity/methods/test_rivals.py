"""Methods that compete with isometry, each against an independent reference or a case worked by hand."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from isorl.plasticity.methods import METHODS, Batch
from isorl.plasticity.methods.c_chain import CChain
from isorl.plasticity.methods.cpr import CPR
from isorl.plasticity.methods.fire import Fire, polar_factor
from isorl.plasticity.methods.hare_and_tortoise import HareAndTortoise
from isorl.plasticity.methods.l2_er import L2ER, effective_rank
from isorl.plasticity.methods.regrama import ReGraMa, gradient_score
from isorl.plasticity.methods.reperturbation import Reperturbation
from isorl.plasticity.methods.sigreg import SIGReg, gaussian_distance
from isorl.plasticity.methods.spectral_regularisation import SpectralRegularisation
from isorl.plasticity.methods.upgd import PerturbedAdam
from isorl.plasticity.methods.weight_clipping import WeightClipping
from tests.plasticity.methods.conftest import Trained, cnn, mlp


def polar_by_svd(W):
    U, _, Vh = torch.linalg.svd(W, full_matrices=False)
    return U @ Vh


@pytest.mark.parametrize("shape", [(5, 5), (4, 9), (9, 4), (3, 4, 6)])
def test_newton_schulz_finds_the_polar_factor(shape):
    W = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(polar_factor(W, 60), polar_by_svd(W), rtol=1e-9, atol=1e-9)


def test_fire_takes_hidden_weights_to_the_scaled_nearest_isometry():
    network = mlp(4, 6, 3, 2)
    before = copy.deepcopy(network)
    trained = Trained(Fire(iterations=60), q=network)
    trained.methods.on_switch()
    for layer, old, (rows, columns) in ((0, before[0][0], (6, 4)), (2, before[0][2], (3, 6))):
        expected = (rows / columns) ** 0.5 * polar_by_svd(old.weight.detach())
        torch.testing.assert_close(network[0][layer].weight.detach(), expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(network[0][layer].bias, old.bias)


def test_fire_takes_each_tap_of_a_kernel():
    network = cnn()
    old = network[0][0].weight.detach().clone()  # (3, 2, 3, 3)
    Trained(Fire(iterations=60), q=network).methods.on_switch()
    for i in range(3):
        for j in range(3):
            expected = (3 / 2) ** 0.5 / 9 * polar_by_svd(old[:, :, i, j])
            torch.testing.assert_close(
                network[0][0].weight.detach()[:, :, i, j], expected, rtol=1e-4, atol=1e-5
            )


def public_dqn_fire(network, initial):
    """What the authors' Atari DQN does: linear layers are redrawn, convolutions get their polar factor."""
    for module, first in zip(network.modules(), initial.modules(), strict=True):
        if isinstance(module, nn.Linear):
            module.load_state_dict(first.state_dict())


def test_fire_redraws_no_linear_layer_as_the_public_dqn_does():
    """Ours keeps the directions that were learned: the polar factors of W before and after are the same."""
    network = mlp(6, 8, 8, 2)
    initial = copy.deepcopy(network)
    trained = Trained(Fire(iterations=60), q=network, optimizer=torch.optim.SGD)
    for _ in range(50):
        trained.step(torch.randn(16, 6) + 1)
    learned, theirs = copy.deepcopy(network), copy.deepcopy(network)
    trained.methods.on_switch()
    public_dqn_fire(theirs, initial)
    assert torch.equal(network[1].weight, learned[1].weight)  # the head stays
    assert torch.equal(theirs[1].weight, initial[1].weight)
    ours, kept = network[0][2].weight.detach(), learned[0][2].weight.detach()
    torch.testing.assert_close(polar_by_svd(ours), polar_by_svd(kept), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(ours, theirs[0][2].weight, atol=1e-2)


def test_fire_leaves_an_isometry_as_it_is():
    network = mlp(5, 5, 2)
    nn.init.orthogonal_(network[0][0].weight)
    before = network[0][0].weight.detach().clone()
    Trained(Fire(), q=network).methods.on_switch()
    torch.testing.assert_close(network[0][0].weight.detach(), before, rtol=1e-3, atol=1e-3)


def spectral_by_svd(network, power, target):
    """The formula, tensor by tensor, with singular values in full."""
    total = 0
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            sigma = torch.linalg.svdvals(module.weight.flatten(1))[0]
            total = total + (sigma**power - target) ** 2 + module.bias.square().sum()
        if isinstance(module, nn.LayerNorm):
            total = total + (module.weight - 1).square().sum() + module.bias.square().sum()
    return total


@pytest.mark.parametrize("make", [lambda: mlp(6, 5, 7, 2), cnn])
def test_spectral_regularisation_is_its_formula_once_the_iteration_has_converged(make):
    network = make()
    method = SpectralRegularisation(strength=0.5, power=3, target=0.7)
    Trained(method, q=network)
    for _ in range(300):
        found = method.loss(None)
    expected = 0.5 * spectral_by_svd(network, 3, 0.7)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    ours = torch.autograd.grad(found, list(network.parameters()))
    theirs = torch.autograd.grad(expected, list(network.parameters()))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)


def test_spectral_regularisation_by_hand():
    """W = diag(3, 1), (9 - 1)^2; the head (1, 2) of the norm sqrt 5, (5 - 1)^2; biases (2, 0) and 1; a scale of 4."""
    network = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.ReLU()), nn.Linear(2, 1))
    with torch.no_grad():
        network[0][0].weight.copy_(torch.diag(torch.tensor([3.0, 1.0])))
        network[0][0].bias.copy_(torch.tensor([2.0, 0.0]))
        network[0][1].weight.copy_(torch.tensor([4.0, 1.0]))
        network[1].weight.copy_(torch.tensor([[1.0, 2.0]]))
        network[1].bias.fill_(1.0)
    method = SpectralRegularisation(strength=1.0)
    Trained(method, q=network)
    for _ in range(50):
        found = method.loss(None)
    assert found.item() == pytest.approx(64 + 16 + 4 + 1 + 9, rel=1e-5)


def test_effective_rank_by_hand_and_by_numpy():
    assert effective_rank(torch.diag(torch.tensor([3.0, 3.0, 3.0, 0.0]))).item() == pytest.approx(3, rel=1e-4)
    assert effective_rank(torch.ones(4, 3)).item() == pytest.approx(1, rel=1e-4)
    H = torch.randn(9, 5)
    p = np.linalg.svd(H.numpy(), compute_uv=False)
    p = p / p.sum()
    assert effective_rank(H).item() == pytest.approx(float(np.exp(-(p * np.log(p)).sum())), rel=1e-4)


def test_l2_er_climbs_by_the_gradient_of_the_rank_alone():
    """A step of plain ascent, found by finite differences in double precision."""
    network, x = mlp(4, 6, 5, 3, 2).double(), torch.randn(8, 4, dtype=torch.float64)
    twin = copy.deepcopy(network)
    method = L2ER(weight_decay=0.0, rank_rate=0.1, every=2)
    trained = Trained(method, q=network)
    trained.methods.after_update(Batch(lambda: x))
    assert torch.equal(network[0][0].weight, twin[0][0].weight)  # not yet
    trained.methods.after_update(Batch(lambda: x))

    def rank():
        with torch.no_grad():
            return (effective_rank(twin[0][:4](x)) + effective_rank(twin[0](x))) / 2

    weight = twin[0][2].weight
    for i, j in ((0, 0), (4, 3)):
        with torch.no_grad():
            weight[i, j] += 1e-6
            up = rank()
            weight[i, j] -= 2e-6
            slope = (up - rank()) / 2e-6
            weight[i, j] += 1e-6
        moved = network[0][2].weight[i, j] - weight[i, j]
        assert moved.item() == pytest.approx(0.1 * slope.item(), rel=1e-3, abs=1e-7)
    assert torch.equal(network[1].weight, twin[1].weight)  # the head does not make features


def test_l2_ers_decay_is_torchs():
    ours, x = mlp(3, 4, 1), torch.randn(5, 3)
    theirs = copy.deepcopy(ours)
    trained = Trained(L2ER(weight_decay=0.1, rank_rate=0.0), q=ours)
    twin = Trained(q=theirs, optimizer=lambda p, lr: torch.optim.Adam(p, lr=lr, weight_decay=0.1))
    for _ in range(5):
        trained.step(x)
        twin.step(x)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_c_chain_is_a_plain_twin():
    """Every update, with copies of whole networks and lists of all that was: the authors' way of doing it."""
    torch.manual_seed(0)
    network = mlp(3, 8, 2)
    trained = Trained(CChain(strength=0.5, decay=0.9), q=network)
    theirs = copy.deepcopy(network)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-2)
    networks, inputs, losses, churns = [], [], [], []
    for step in range(8):
        x = torch.randn(6, 3)
        trained.step(x)
        loss = theirs(x).square().mean()
        total = loss
        if step >= 2:
            churn = (theirs(inputs[-2]) - networks[-1](inputs[-2]).detach()).square().mean()
            losses.append(abs(loss.item()))
            churns.append(churn.item())
            weights = [0.9 ** (len(losses) - 1 - i) for i in range(len(losses))]
            mean_loss = sum(w * v for w, v in zip(weights, losses, strict=True)) * 0.1
            mean_churn = sum(w * v for w, v in zip(weights, churns, strict=True)) * 0.1
            total = loss + 0.5 * mean_loss / (mean_churn + 1e-8) * churn
        networks.append(copy.deepcopy(theirs))
        inputs.append(x)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    for a, b in zip(network.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_c_chain_lowers_churn_and_leaves_critics_alone():
    method = CChain()
    Trained(method, actor=mlp(3, 8, 2), critic=mlp(3, 8, 1))
    assert list(method._networks) == ["actor"]

    def churn(*methods):
        torch.manual_seed(1)
        network = mlp(3, 32, 2)
        trained = Trained(*methods, q=network)
        outside, moved = torch.randn(256, 3), []
        for _ in range(60):
            before = network(outside).detach()
            trained.step(torch.randn(4, 3))
            moved.append((network(outside) - before).square().mean().item())
        return np.mean(moved[3:])

    assert churn(CChain(strength=0.5)) < 0.8 * churn()


def test_sigreg_by_hand():
    """All samples project to 0: the characteristic function is 1, so the mean of (1 - exp(-t^2 / 2))^2 at -5, 5."""
    found = gaussian_distance(torch.zeros(7, 3), points=2)
    assert found.item() == pytest.approx((1 - np.exp(-12.5)) ** 2)


def test_sigreg_is_its_formula_in_complex_numbers():
    network, x = mlp(3, 6, 2), torch.randn(10, 3)
    trained = Trained(SIGReg(strength=2.0, slices=4, points=5), q=network)
    state = trained.learner.generator.get_state()
    found = trained.methods.add_loss(torch.zeros(()), Batch(lambda: x)).item()
    drawn = torch.randn(4, 6, generator=torch.Generator().set_state(state)).numpy()
    features = network[0](x).detach().numpy()
    total = []
    for a in drawn:
        s = features @ (a / np.linalg.norm(a))
        for t in (-5, -2.5, 0, 2.5, 5):
            total.append(abs(np.exp(1j * t * s).mean() - np.exp(-(t**2) / 2)) ** 2)
    assert found == pytest.approx(2 * np.mean(total), rel=1e-4)


def test_sigreg_vanishes_on_gaussian_features_alone():
    gaussian = torch.randn(20_000, 2)
    assert gaussian_distance(gaussian, 8) < 1e-3
    assert gaussian_distance(3 * gaussian, 8) > 0.01
    assert gaussian_distance(gaussian.relu(), 8) > 0.01


def test_sigreg_counts_a_shared_body_once():
    body = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    networks = {"actor": nn.Sequential(body, nn.Linear(4, 2)), "critic": nn.Sequential(body, nn.Linear(4, 1))}
    method = SIGReg()
    Trained(method, **networks)
    assert len(method._bodies) == 1


def test_reperturbation_by_hand():
    """Of ten units a fifth, those with the least incoming weights, and no other; moments shrink by the factor."""
    network = mlp(400, 10, 2)
    trained = Trained(Reperturbation(fraction=0.2, moments=0.3), q=network)
    trained.step(torch.randn(8, 400))
    with torch.no_grad():
        network[0][0].weight[[3, 7]] *= 0.1
    before = copy.deepcopy(network)
    moment = trained.optimizer.state[network[1].weight]["exp_avg"].clone()
    trained.methods.on_switch()
    changed = (network[0][0].weight != before[0][0].weight).any(1)
    assert changed.nonzero()[:, 0].tolist() == [3, 7]
    assert float(network[0][0].weight[[3, 7]].detach().std()) == pytest.approx((2 / 400) ** 0.5, rel=0.1)
    assert torch.equal(network[1].weight, before[1].weight)
    assert torch.equal(network[0][0].bias, before[0][0].bias)
    torch.testing.assert_close(trained.optimizer.state[network[1].weight]["exp_avg"], 0.3 * moment)


def test_gradient_scores_by_hand():
    """Gradients of the size 1, 3 and 0 on average: over their mean of 4 / 3."""
    weight = nn.Parameter(torch.zeros(3, 2))
    weight.grad = torch.tensor([[1.0, -1.0], [0.0, 6.0], [0.0, 0.0]])
    assert gradient_score(weight).tolist() == pytest.approx([0.75, 2.25, 0.0])


def test_regrama_recycles_what_has_no_gradient_though_it_answers():
    """Unit 1 answers loudly but nobody reads it; unit 2 is silent on the batch: neither has a gradient."""
    network = mlp(3, 4, 2)
    with torch.no_grad():
        network[0][0].weight.abs_()
        network[0][0].bias.fill_(1.0)
        network[1].weight[:, 1] = 0
        network[0][0].bias[2] = -100
    trained = Trained(ReGraMa(tau=0.0, every=1), q=network, optimizer=torch.optim.SGD)
    before = network[0][0].weight.detach().clone()
    trained.step(torch.rand(16, 3), train=False)
    trained.methods.after_update(None)
    assert (network[0][0].weight != before).all(1).tolist() == [False, True, True, False]
    assert (network[1].weight == 0).all(0).tolist() == [False, True, True, False]
    assert network[0][0].bias[2] == 0


def test_cpr_by_hand():
    """Scores 0.75, 2.25, 0: after one update with decay 0.5 utilities are 0.875, 1.625, 0.5."""
    network = mlp(2, 3, 1)
    method = CPR(rate=0.5, sharpness=2.0, threshold=1.0, decay=0.5, every=2)
    trained = Trained(method, q=network)
    weight, out = network[0][0].weight, network[1].weight
    before, before_out = weight.detach().clone(), out.detach().clone()
    weight.grad = torch.tensor([[1.0, -1.0], [0.0, 6.0], [0.0, 0.0]])
    trained.methods.after_update(None)
    assert torch.equal(weight, before)
    assert method._utility[0].tolist() == pytest.approx([0.875, 1.625, 0.5])
    state = trained.learner.generator.get_state()
    trained.methods.after_update(None)
    utility = np.array([0.8125, 1.9375, 0.25])
    share = 0.5 * np.minimum(1, 2 / (1 + np.exp(2.0 * (utility - 1))))
    assert share.tolist() == pytest.approx([0.5, 0.5 * 2 / (1 + np.exp(1.875)), 0.5])
    fresh = 2 * torch.rand(3, 2, generator=torch.Generator().set_state(state)) - 1
    fresh *= 3**0.5 * before.std()
    share = torch.tensor(share, dtype=torch.float32)
    torch.testing.assert_close(weight.detach(), (1 - share)[:, None] * before + share[:, None] * fresh)
    torch.testing.assert_close(out.detach(), (1 - share) * before_out)
    assert method._utility[0].tolist() == [1, 1, 1]


@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_periodic_methods_act_where_rank_has_fallen(drop):
    network = mlp(8, 16, 2)
    method = Fire(every=2, rank_drop=drop)
    trained = Trained(method, q=network)
    acts = []
    method.act = lambda: acts.append(method._updates)
    rich, poor = torch.randn(32, 8), torch.ones(32, 1) * torch.randn(8)
    for x in (poor, poor, rich, rich, rich, poor, rich, poor, poor, poor):
        trained.methods.after_update(Batch(lambda x=x: x))
    assert acts == ([6] if drop else [2, 4, 6, 8, 10])  # after an act the highest rank is counted anew


def test_boundary_says_who_is_told_of_switches():
    assert Fire().boundary == "informed"
    assert Fire(every=10).boundary == "agnostic"
    assert ReGraMa().boundary == "agnostic"
    assert METHODS["ewc"]().boundary == "informed"
    assert METHODS["plasticity_injection"](at_update=5).boundary == "agnostic"
    with pytest.raises(ValueError, match=r"rank_drop is 0\.5; it must be 0 without `every`"):
        Fire(rank_drop=0.5)


def upgd_by_hand(theta, gradients, noises, lr, decay, weight_decay, sigma):
    """The equations in numpy, tensors as a list, step by step."""
    m, v, u = ([np.zeros_like(w) for w in theta] for _ in range(3))
    for step, (gs, ns) in enumerate(zip(gradients(theta), noises, strict=False), start=1):
        for i, g in enumerate(gs):
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.999 * v[i] + 0.001 * g * g
            u[i] = decay * u[i] + (1 - decay) * -g * theta[i]
        top = max(w.max() for w in u)
        for i, n in enumerate(ns):
            U = 1 / (1 + np.exp(-u[i] / (1 - decay**step) / (top / (1 - decay**step))))
            m_hat, v_hat = m[i] / (1 - 0.9**step), v[i] / (1 - 0.999**step)
            move = m_hat * (1 - U) / (np.sqrt(v_hat) + 1e-8) + sigma * n * (1 - U)
            theta[i] *= 1 - lr * weight_decay
            theta[i] -= 2 * lr * move
    return theta


def test_upgd_follows_its_equations():
    torch.manual_seed(0)
    theta = [
        nn.Parameter(torch.randn(3, 2, dtype=torch.float64)),
        nn.Parameter(torch.randn(4, dtype=torch.float64)),
    ]
    targets = [torch.randn_like(p) for p in theta]
    optimizer = PerturbedAdam(theta, lr=0.05, weight_decay=0.1, noise=0.3, decay=0.9)
    optimizer.generator.manual_seed(5)
    twin, ours = torch.Generator().manual_seed(5), [p.detach().numpy().copy() for p in theta]
    noises = [[torch.randn(p.shape, generator=twin).double().numpy() for p in theta] for _ in range(6)]

    def gradients(now):
        while True:
            yield [2 * (w - t.numpy()) for w, t in zip(now, targets, strict=True)]

    expected = upgd_by_hand(ours, gradients, noises, 0.05, 0.9, 0.1, 0.3)
    for _ in range(6):
        optimizer.zero_grad()
        sum((p - t).square().sum() for p, t in zip(theta, targets, strict=True)).backward()
        optimizer.step()
    for p, w in zip(theta, expected, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), w, rtol=1e-6)


def test_upgd_moves_useful_weights_less():
    """-g theta is 1 and -1 here: the first has the largest utility, so U = sigmoid(1) and sigmoid(-1)."""
    theta = nn.Parameter(torch.tensor([1.0, 1.0]))
    optimizer = PerturbedAdam([theta], lr=0.01, noise=0.0, weight_decay=0.0)
    theta.grad = torch.tensor([-1.0, 1.0])
    optimizer.step()
    sigmoid = 1 / (1 + np.exp(-1))
    moved = (theta.detach() - 1).tolist()
    assert moved == pytest.approx([0.02 * (1 - sigmoid), -0.02 * sigmoid], rel=1e-4)


def test_hare_falls_back_to_the_tortoise_by_hand():
    """From 0 the hare goes to 1, 2, 3; the tortoise, of momentum 1/2, to 0.5, 1.25, 2.125, where both then are."""
    network = mlp(1, 1, 1)
    weight = network[1].weight
    with torch.no_grad():
        weight.zero_()
    trained = Trained(HareAndTortoise(momentum=0.5, every=3), q=network)
    for position, expected in ((1.0, 1.0), (2.0, 2.0), (3.0, 2.125)):
        with torch.no_grad():
            weight.fill_(position)
        trained.methods.after_update(None)
        assert weight.item() == pytest.approx(expected)


@pytest.mark.parametrize("make", [lambda: mlp(4, 6, 2), cnn])
def test_weight_clipping_keeps_torchs_initialisation_and_nothing_beyond(make):
    network = make()
    trained = Trained(WeightClipping(scale=1.0), q=network)
    before = copy.deepcopy(network)
    trained.methods.after_update(None)
    for ours, theirs in zip(network.parameters(), before.parameters(), strict=True):
        assert torch.equal(ours, theirs)  # 1 / sqrt(fan-in) bounds all of it, biases too
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(100)
    trained.methods.after_update(None)
    layers = [m for m in network.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    for layer in layers:
        for parameter in layer.parameters():
            assert parameter.abs().max().item() == pytest.approx(layer.weight[0].numel() ** -0.5)


def test_weight_clipping_leaves_norm_layers():
    network = nn.Sequential(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.ReLU()), nn.Linear(3, 1))
    Trained(WeightClipping(scale=0.1), q=network).methods.after_update(None)
    assert network[0][1].weight.tolist() == [1, 1, 1]


def test_upgd_takes_adams_options_or_refuses_them_by_name():
    method = METHODS["upgd"]()
    _, options = method.optimizer(torch.optim.Adam, {"eps": 1e-5, "fused": True, "weight_decay": 0.0})
    assert options == {"eps": 1e-5, "noise": 0.001, "decay": 0.999, "weight_decay": 0.001}
    with pytest.raises(ValueError, match=r"leave out optimizer\.weight_decay=0\.1"):
        method.optimizer(torch.optim.Adam, {"weight_decay": 0.1})
