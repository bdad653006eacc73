"""Methods that meet another method, an optimizer or a network on which they were once wrong."""

import copy
import itertools
import warnings

import pytest
import torch
from torch import nn

from isorl.plasticity import AdamO, NetworkSpec, build_mlp, diagnose, parameter_groups
from isorl.plasticity.diagnostics.gradients import gradient_scores
from isorl.plasticity.diagnostics.trainability import fit_random_targets
from isorl.plasticity.methods import METHODS, Batch, Learner, Methods
from isorl.plasticity.methods.c_chain import CChain
from isorl.plasticity.methods.ewc import EWC
from isorl.plasticity.methods.muon import MuonAdam
from isorl.plasticity.methods.projection import Projection
from isorl.plasticity.methods.trac import TracAdam
from isorl.plasticity.networks.activations import CReLU
from tests.plasticity.methods.conftest import Trained, mlp


def batch_of(x):
    return Batch(lambda: x)


def learner_of(network, optimizer, root=None, **options):
    root = root or network
    return Learner({"q": network}, optimizer, root, lambda: mlp(6, 32, 1), **options)


def test_recycling_leaves_tracs_path():
    """What is redrawn is no path of TRAC's: its scale stays, and other weights with it."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Sequential(nn.Linear(6, 32), nn.ReLU()), nn.Linear(32, 1))
    with torch.no_grad():
        network[0][0].bias[:8] = -1e4  # dead
    optimizer = TracAdam(network.parameters(), lr=1e-2)
    methods = Methods({"redo": METHODS["redo"](tau=0.0, every=250)})
    methods.start(learner_of(network, optimizer))
    x = torch.randn(128, 6)
    y, scales = x[:, :1] * x[:, 1:2], []
    for _ in range(350):
        optimizer.zero_grad()
        (network(x) - y).square().mean().backward()
        optimizer.step()
        methods.after_update(batch_of(x))
        scales.append(float(optimizer.param_groups[0]["trac_s"].sum()))
    assert not (network[0][0].bias[:8] == -1e4).any()
    assert min(scales[250:]) > 0.5 * scales[249]
    weight = network[0][0].weight
    assert optimizer.state[weight]["trac_reference"].shape == weight.shape


def test_a_reset_of_tracs_state_as_a_whole_begins_it_anew():
    network = nn.Linear(3, 1)
    optimizer = TracAdam(network.parameters(), lr=1e-2)
    x = torch.randn(32, 3)

    def update():
        optimizer.zero_grad()
        (network(x) - x[:, :1]).square().mean().backward()
        optimizer.step()
        return float(optimizer.param_groups[0]["trac_s"].sum())

    first = update()
    for _ in range(300):
        grown = update()
    optimizer.state.clear()
    assert grown > 100 * first
    assert update() < 10 * first


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999])
def test_c_chains_term_is_its_share_of_the_loss_from_the_first_on(decay):
    method = CChain(strength=0.5, decay=decay)
    network = mlp(3, 4, 1)
    Trained(method, q=network)
    for _ in range(5):
        with torch.no_grad():
            for before, now in zip(method._before.parameters(), method._networks.parameters(), strict=True):
                before.copy_(now)
            method._before["q"][1].bias += 0.1  # a churn of 0.01
        term = method._term(torch.randn(8, 3), torch.tensor(2.0))
        assert float(term.detach()) == pytest.approx(0.5 * 2.0, rel=1e-4)


def test_injected_weights_and_biases_join_the_groups_of_their_twins():
    network, x = mlp(6, 8, 8, 1), torch.randn(16, 6)
    root = nn.ModuleDict(
        {"body": network[0], "top": network[1]}
    )  # as a policy holds them; `network` is a view
    fresh = copy.deepcopy(root)
    optimizer = MuonAdam(parameter_groups(root, heads=["top"]), lr=1e-2)
    method = METHODS["plasticity_injection"](at_update=2)
    methods = Methods({"plasticity_injection": method})
    methods.start(Learner({"q": network}, optimizer, root, lambda: fresh))
    group_of = {id(p): i for i, group in enumerate(optimizer.param_groups) for p in group["params"]}
    for triple in method._triples:
        for new, old in zip(triple.new.parameters(), triple.old.parameters(), strict=True):
            assert group_of[id(new)] == group_of[id(old)]
    for _ in range(5):
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()
        methods.after_update(batch_of(x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = diagnose({"q": network}, x, ["feature_norm"])
    with torch.no_grad():
        read = network[0](x)  # of t, t' and t'', beside each other
    assert read.shape == (16, 24)
    assert values["plasticity/feature_norm/q"] == pytest.approx(float(read.norm(dim=1).mean()), rel=1e-5)


def test_ewc_looks_at_a_spectral_network_without_moving_it():
    body = build_mlp(4, NetworkSpec((8,), spectral_norm=True))
    network = nn.Sequential(body, nn.Linear(8, 3))
    method = EWC(samples=8)
    methods = Methods({"ewc": method})
    optimizer = torch.optim.Adam(network.parameters())
    methods.start(Learner({"classifier": network}, optimizer, network, lambda: network, labelled=True))
    network.train()
    method.after_update(Batch(lambda: torch.randn(8, 4)))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    methods.on_switch()
    assert method._anchor
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(("penalty", "controlled"), [(["gram"], ["gram"]), ([], [])])
def test_muon_is_not_taken_for_adamo_by_the_control_loop(penalty, controlled):
    network = mlp(4, 8, 2)
    optimizer = MuonAdam(parameter_groups(network, heads=["1"]), lr=1e-3)
    methods = Methods({name: METHODS[name]() for name in [*penalty, "adaptive_isometry"]})
    for method in methods:
        method.network(NetworkSpec(activation="relu"))
    learner = Learner({"q": network}, optimizer, network, lambda: network, methods=methods.by_name)
    if not controlled:
        with pytest.raises(
            ValueError, match="controls the strength of an isometry penalty, and this run has none"
        ):
            methods.start(learner)
    else:
        methods.start(learner)


def test_a_frozen_body_does_not_learn_in_the_measure_of_trainability():
    torch.manual_seed(0)
    network, x = mlp(4, 16, 2), torch.randn(64, 4)
    free = fit_random_targets(network, x)
    network[0].requires_grad_(False)
    head = fit_random_targets(network, x)
    assert float(head) > float(free) + 0.05
    network.requires_grad_(False)
    assert float(fit_random_targets(network, x)) == float(free)


@pytest.mark.parametrize(
    "spec", [NetworkSpec((8,), isometry="projected", activation="maxmin")], ids=["projected"]
)
def test_projected_weights_stay_so_over_a_switch(spec):
    network, target = (nn.Sequential(build_mlp(4, spec), nn.Linear(8, 2)) for _ in range(2))
    optimizer = torch.optim.Adam(network.parameters())
    methods = Methods({"shrink_and_perturb": METHODS["shrink_and_perturb"](), "projection": Projection()})
    methods.start(Learner({"q": network}, optimizer, network, lambda: network, {"q": target}))
    methods.on_switch()
    for each in (network, target):
        sigma = torch.linalg.svdvals(each[0][0].weight.detach())
        torch.testing.assert_close(sigma, torch.ones_like(sigma), atol=1e-3, rtol=0)
    assert methods.by_name["projection"].boundary == "agnostic"


@pytest.mark.parametrize(("every", "follows"), [(0, True), (1000, True), (1, False)])
def test_targets_follow_a_shrink_that_moves_far(every, follows):
    network, target = mlp(4, 8, 2), mlp(4, 8, 2)
    target.load_state_dict(network.state_dict())
    method = METHODS["shrink_and_perturb"](every=every, shrink=0.5)
    Methods({"shrink_and_perturb": method}).start(
        Learner(
            {"q": network}, torch.optim.Adam(network.parameters()), network, lambda: network, {"q": target}
        )
    )
    method.act()
    assert torch.equal(network[1].weight, target[1].weight) == follows


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e-20])
def test_scores_of_gradients_do_not_depend_on_their_scale(scale):
    G = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(gradient_scores(scale * G), gradient_scores(G))
    assert not gradient_scores(torch.zeros(3, 2)).any()


def test_a_unit_of_crelu_is_alive_where_one_of_its_outputs_is():
    network = nn.Sequential(nn.Linear(3, 8), CReLU(), nn.Linear(16, 2))
    with torch.no_grad():
        network[0].bias.fill_(-10.0)
    values = diagnose({"q": network}, torch.randn(64, 3), ["dormant_units", "dormant_units_redo"])
    assert values["plasticity/dormant_units/q"] == 0
    assert values["plasticity/dormant_units_redo/q"] == 0


@pytest.mark.parametrize(
    ("names", "target"), [(("gram", "prelu"), 2 / (1 + 0.25**2)), (("gram", "crelu"), 2.0)]
)
def test_grams_target_is_that_of_the_network_whatever_the_order(names, target):
    found = []
    for order in itertools.permutations(names):
        methods = Methods({name: METHODS[name]() for name in order})
        spec = methods.network(NetworkSpec(activation="relu"))
        found.append(methods.by_name["gram"]._target)
        assert found[-1] == pytest.approx((spec.gain or spec.unit.gain) ** 2)
    assert found[0] == found[1] == pytest.approx(target)


@pytest.mark.parametrize("name", ["feature_rank", "spectral_regularisation"])
def test_networks_in_double_precision(name):
    network = mlp(4, 8, 2).double()
    methods = Methods({name: METHODS[name]()})
    methods.start(Learner({"q": network}, torch.optim.Adam(network.parameters()), network, lambda: network))
    x = torch.randn(8, 4, dtype=torch.double)
    assert torch.isfinite(methods.add_loss(network(x).square().mean(), batch_of(x)))


def test_adamo_without_strength_is_ppos_adam_in_python_too():
    from isorl.agents import ContinualPPO

    kwargs = {"optimizer_class": AdamO, "optimizer_kwargs": {"iso_lambda": 0.0}}
    ours = ContinualPPO("NetworkPolicy", "CartPole-v1", policy_kwargs=kwargs, device="cpu")
    plain = ContinualPPO("NetworkPolicy", "CartPole-v1", device="cpu")
    assert {g["eps"] for g in ours.policy.optimizer.param_groups} == {1e-5}
    assert {g["eps"] for g in plain.policy.optimizer.param_groups} == {1e-5}
