import copy
import pickle
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from isorl.plasticity import (
    AdamO,
    NetworkSpec,
    build_mlp,
    parameter_groups,
)
from tests.conftest import waiting_for_the_device_raises

SHAPES = {"tall": (12, 5), "wide": (5, 12), "square": (7, 7), "conv": (4, 3, 2, 2)}


def network(device="cpu"):
    torch.manual_seed(1)
    body = build_mlp(6, NetworkSpec(widths=(16, 8)))
    return nn.Sequential(body, nn.Linear(8, 2)).to(device)


def train(model, optimizer, updates=12, seed=3):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(updates):
        x = torch.randn(10, 6, generator=generator).to(next(model.parameters()).device)
        optimizer.zero_grad()
        (model(x) - x[:, :2]).square().mean().backward()
        optimizer.step()
    return model


def equal(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@torch.enable_grad()
def autograd_step(weight, rate, target=1.0):
    """-a grad R(W) from the definition, with the Gram matrix of the rows whatever the shape."""
    W = weight.detach().double().requires_grad_()
    matrix = W.reshape(len(W), -1)
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    R = (
        (matrix @ matrix.T - target * torch.eye(len(matrix), dtype=torch.double, device=W.device))
        .square()
        .sum()
    )
    return -rate * torch.autograd.grad(R, W)[0]


MODES = [
    {},
    {"foreach": True},
    {"foreach": False},
    {"fused": True},
    {"amsgrad": True, "maximize": True},
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "decoupled_weight_decay": True},
    {"betas": (0.5, 0.9), "eps": 1e-5, "lr": 3e-3},
]


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_without_strength_it_is_adam_bit_for_bit(mode, device):
    ours, theirs = network(device), network(device)
    train(ours, AdamO(parameter_groups(ours), iso_lambda=0, **mode))
    train(theirs, torch.optim.Adam(parameter_groups(theirs), **mode))
    assert equal(ours, theirs)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:.*capturable=True:UserWarning")  # said of steps outside a graph
@pytest.mark.parametrize("fused", [True, False])
def test_without_strength_it_is_capturable_adam(fused):
    ours, theirs = network("cuda"), network("cuda")
    train(ours, AdamO(parameter_groups(ours), iso_lambda=0, capturable=True, fused=fused))
    train(theirs, torch.optim.Adam(parameter_groups(theirs), capturable=True, fused=fused))
    assert equal(ours, theirs)


def test_without_strength_it_is_adamw():
    ours, theirs = network(), network()
    train(ours, AdamO(parameter_groups(ours), iso_lambda=0, weight_decay=0.1, decoupled_weight_decay=True))
    train(theirs, torch.optim.AdamW(theirs.parameters(), lr=1e-3, weight_decay=0.1))
    assert equal(ours, theirs)


def test_it_equals_ten_plain_lines(device):
    eta, beta1, beta2, eps, lam, s = 1e-2, 0.9, 0.999, 1e-8, 0.05, 2.0
    model, twin = network(device), network(device)
    train(model, AdamO(parameter_groups(model), lr=eta, iso_lambda=lam, iso_target=s, iso_every=1), 5)

    weights = {name for name, p in twin.named_parameters() if p.ndim == 2}
    m = {name: torch.zeros_like(p) for name, p in twin.named_parameters()}
    v = copy.deepcopy(m)
    generator = torch.Generator().manual_seed(3)
    for t in range(1, 6):
        x = torch.randn(10, 6, generator=generator).to(device)
        loss = (twin(x) - x[:, :2]).square().mean()
        grads = torch.autograd.grad(loss, list(twin.parameters()))
        with torch.no_grad():
            for (name, theta), g in zip(twin.named_parameters(), grads, strict=True):
                m[name] = beta1 * m[name] + (1 - beta1) * g
                v[name] = beta2 * v[name] + (1 - beta2) * g * g
                m_hat, v_hat = m[name] / (1 - beta1**t), v[name] / (1 - beta2**t)
                step = -eta * m_hat / (v_hat.sqrt() + eps)
                if name in weights:
                    step += autograd_step(theta, eta * lam, s).to(theta)
                theta += step
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_isometry_step_is_the_gradient_of_the_penalty(shape, device):
    W = nn.Parameter(0.3 * torch.randn(shape, device=device))
    W.grad = torch.zeros_like(W)
    expected = W.detach() + autograd_step(W, 1e-3 * 0.5).float()
    AdamO([{"params": [W], "isometric": True}], lr=1e-3, iso_lambda=0.5, iso_every=1).step()
    torch.testing.assert_close(W.detach(), expected, rtol=1e-5, atol=1e-6)


def test_moments_never_see_the_penalty(device):
    model = network(device)
    optimizer = AdamO(parameter_groups(model), iso_lambda=10.0, iso_every=1)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    before = copy.deepcopy(model)
    optimizer.step()
    assert not equal(model, before)
    assert all(
        not state["exp_avg"].any() and not state["exp_avg_sq"].any() for state in optimizer.state.values()
    )


def test_only_isometric_weights_with_a_gradient_move():
    model = network()
    optimizer = AdamO(parameter_groups(model, heads=["1"]), iso_lambda=1.0, iso_every=1)
    frozen = model[0][0].weight
    for p in model.parameters():
        p.grad = None if p is frozen else torch.zeros_like(p)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"0.2.weight"}


def test_every_k_updates_at_k_fold_strength():
    once, four = network(), network()
    for p in (*once.parameters(), *four.parameters()):
        p.grad = torch.zeros_like(p)
    AdamO(parameter_groups(once), iso_lambda=4e-2, iso_every=1).step()
    optimizer = AdamO(parameter_groups(four), iso_lambda=1e-2, iso_every=4)
    for _ in range(4):
        assert equal(four, network())
        optimizer.step()
    for p, q in zip(once.parameters(), four.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_the_rate_follows_the_schedule_unless_given():
    W = nn.Parameter(torch.randn(4, 4))
    optimizer = AdamO([{"params": [W], "isometric": True}], lr=1e-3, iso_lambda=0.1)
    first = optimizer.half_life()
    optimizer.param_groups[0]["lr"] = 1e-4  # as Stable-Baselines3's schedules do
    assert optimizer.half_life() == pytest.approx(10 * first, rel=1e-2)
    optimizer.param_groups[0]["iso_lr"] = 1e-3
    assert optimizer.half_life() == first


@given(st.floats(1e-3, 1e3), st.floats(1e-6, 1e3), st.floats(0.1, 4), st.sampled_from(list(SHAPES.values())))
def test_the_cap_never_diverges_and_the_penalty_never_grows(sigma, strength, target, shape):
    torch.manual_seed(0)
    W = nn.Parameter(torch.randn(shape, dtype=torch.double))
    with torch.no_grad():
        W *= sigma / torch.linalg.matrix_norm(W.reshape(len(W), -1), 2)
    W.grad = torch.zeros_like(W)
    optimizer = AdamO([{"params": [W], "isometric": True}], lr=1.0, iso_lambda=strength, iso_target=target)

    def penalty():
        s = torch.linalg.svdvals(W.detach().reshape(len(W), -1))
        return (s.square() - target).square().sum().item()

    last = penalty()
    for _ in range(30):
        optimizer.step()
        assert penalty() <= last * (1 + 1e-9) + 1e-12
        last = penalty()


def test_a_flat_list_treats_all_matrices_as_isometric_and_says_so():
    model = network()
    with pytest.warns(UserWarning, match="all 3 weight matrices"):
        optimizer = AdamO(model.parameters(), iso_lambda=1.0, iso_every=1)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    before = copy.deepcopy(model)
    optimizer.step()
    moved = [not torch.equal(p, q) for p, q in zip(model.parameters(), before.parameters(), strict=True)]
    assert moved == [True, False, True, False, True, False]


@pytest.mark.parametrize("fused", [False, True])
def test_resumed_equals_uninterrupted(fused, device):
    straight, resumed = network(device), network(device)
    options = {
        "iso_lambda": 0.5,
        "iso_every": 5,
        "fused": fused,
    }  # 5 does not divide 12: the phase must be kept
    optimizer = AdamO(parameter_groups(straight), **options)
    train(straight, optimizer, 12)
    train(straight, optimizer, 12, seed=4)

    optimizer = AdamO(parameter_groups(resumed), **options)
    train(resumed, optimizer, 12)
    state = pickle.loads(pickle.dumps(optimizer.state_dict()))
    optimizer = AdamO(parameter_groups(resumed), **options)
    optimizer.load_state_dict(state)
    train(resumed, optimizer, 12, seed=4)
    assert equal(straight, resumed)


def test_state_of_plain_adam_keeps_the_isometry_settings():
    model = network()
    adam = torch.optim.Adam([{k: v for k, v in g.items() if k == "params"} for g in parameter_groups(model)])
    train(model, adam)
    optimizer = AdamO(parameter_groups(model), iso_lambda=0.3)
    optimizer.load_state_dict(adam.state_dict())
    assert [g["isometric"] for g in optimizer.param_groups] == [True, False]
    assert optimizer.param_groups[0]["iso_lambda"] == 0.3
    train(model, optimizer)


def test_an_optimizer_can_be_pickled_and_copied():
    optimizer = AdamO(parameter_groups(network()), iso_lambda=0.3)
    for twin in (pickle.loads(pickle.dumps(optimizer)), copy.deepcopy(optimizer)):
        assert twin.param_groups[0]["iso_lambda"] == 0.3


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
@pytest.mark.parametrize("flat", [False, True])
def test_a_copy_is_as_good_as_the_original(copied, flat):
    """It takes another group, with its own defaults, and makes the same updates."""
    model, added = network(), nn.Linear(4, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the flat list
        groups = list(model.parameters()) if flat else parameter_groups(model)
        optimizer = AdamO(groups, iso_lambda=0.3, iso_every=1)
    pair = (model, optimizer, added)
    twins = copied(pair)
    assert twins[1].param_groups[0]["params"][0] is next(twins[0].parameters())
    for net, own, extra in (pair, twins):
        own.add_param_group({"params": list(extra.parameters())})
        assert own.param_groups[-1]["isometric"] is flat
        assert own.param_groups[-1]["iso_lambda"] == 0.3
        train(net, own, 5)
    assert equal(model, twins[0])


def test_weights_with_and_without_decay_in_groups_of_their_own():
    """The usual split; nobody marks anything, so every matrix is isometric, and the vectors are free."""
    model = network()
    vectors = [p for p in model.parameters() if p.ndim < 2]
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    with pytest.warns(UserWarning, match="all 3 weight matrices"):
        optimizer = AdamO(groups, iso_lambda=1.0, iso_every=1, decoupled_weight_decay=True)
    assert [group["isometric"] for group in optimizer.param_groups] == [True, False]
    before = copy.deepcopy(model)
    train(model, optimizer, 1)
    assert not equal(model, before)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_weights_of_size_zero_are_let_pass_as_adam_lets_them(shape):
    empty, full = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.eye(3))
    empty.grad, full.grad = torch.zeros(shape), torch.ones(3, 3)
    AdamO([{"params": [empty, full], "isometric": True}], iso_every=1).step()
    assert not torch.equal(full, torch.eye(3))


@pytest.mark.parametrize("decoupled", [False, True])
def test_through_weight_decay_alone_the_moments_feel_the_isometry_step(decoupled):
    """Adam's decay is part of its gradient, at the weight that the step has moved."""
    decay, start = 0.1, 2 * torch.eye(3)
    W = nn.Parameter(start.clone())
    W.grad = torch.zeros_like(W)
    options = {"weight_decay": decay, "decoupled_weight_decay": decoupled}
    optimizer = AdamO([{"params": [W], "isometric": True}], iso_lambda=10.0, iso_every=1, **options)
    optimizer.step()
    moved = start + autograd_step(start, 1e-3 * 10.0).float()
    expected = 0 * moved if decoupled else (1 - 0.9) * decay * moved
    torch.testing.assert_close(optimizer.state[W]["exp_avg"], expected)


@pytest.mark.gpu
def test_state_moves_between_cpu_and_gpu():
    model = network()
    optimizer = AdamO(parameter_groups(model), iso_lambda=0.5)
    train(model, optimizer)
    moved = copy.deepcopy(model).to("cuda")
    on_gpu = AdamO(parameter_groups(moved), iso_lambda=0.5)
    on_gpu.load_state_dict(optimizer.state_dict())
    train(moved, on_gpu, seed=5)
    train(model, optimizer, seed=5)
    for p, q in zip(model.parameters(), moved.parameters(), strict=True):
        torch.testing.assert_close(p, q.cpu(), rtol=1e-3, atol=1e-5)


@pytest.mark.gpu
def test_a_step_never_waits_for_the_device():
    model = network("cuda")
    optimizer = AdamO(parameter_groups(model), iso_lambda=0.5, iso_every=1, fused=True)
    train(model, optimizer, 2)
    before = copy.deepcopy(model)
    with waiting_for_the_device_raises():
        optimizer.step()
    assert not equal(model, before)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:.*capturable=True:UserWarning")
def test_a_step_can_be_captured_in_a_graph():
    model = network("cuda")
    optimizer = AdamO(parameter_groups(model), iso_lambda=0.5, iso_every=1, capturable=True)
    train(model, optimizer, 3)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    before = copy.deepcopy(model)
    graph.replay()
    assert not equal(model, before)


def test_hooks_run_once_per_step():
    torch.optim.Adam([nn.Parameter(torch.ones(1))])  # instantiating Adam wraps Adam.step with the hooks
    model = network()
    optimizer = AdamO(parameter_groups(model))
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    train(model, optimizer, 3)
    assert len(calls) == 3


def test_a_closure_sees_the_weights_before_the_step():
    model = network()
    optimizer = AdamO(parameter_groups(model), iso_lambda=1.0, iso_every=1)
    x = torch.randn(4, 6)

    def closure():
        optimizer.zero_grad()
        loss = model(x).square().sum()
        loss.backward()
        return loss

    expected = model(x).square().sum()
    assert torch.equal(optimizer.step(closure), expected)


def test_schedulers_work():
    model = network()
    optimizer = AdamO(parameter_groups(model), lr=1.0)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 10)
    train(model, optimizer, 1)
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.91)


@pytest.mark.filterwarnings("ignore:AdamO. weights of torch.*float16")  # so strong a step they follow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype):
    W = nn.Parameter(torch.eye(4, dtype=dtype) * 1.5)
    W.grad = torch.zeros_like(W)
    optimizer = AdamO([{"params": [W], "isometric": True}], lr=0.05, eps=1e-4, iso_lambda=1.0, iso_every=1)
    for _ in range(50):
        optimizer.step()
    torch.testing.assert_close(W.detach().float(), torch.eye(4), atol=2e-2, rtol=0)


def test_a_zero_row_stays_zero_and_nothing_becomes_nan():
    W = nn.Parameter(torch.eye(4))
    with torch.no_grad():
        W[2] = 0
    W.grad = torch.zeros_like(W)
    AdamO([{"params": [W], "isometric": True}], lr=1.0, iso_lambda=1.0, iso_every=1).step()
    assert torch.isfinite(W).all()
    assert not W[2].any()


def test_non_finite_values_stay_where_they_are():
    good, bad = nn.Parameter(torch.randn(3, 3)), nn.Parameter(torch.full((3, 3), torch.nan))
    good.grad, bad.grad = torch.zeros_like(good), torch.zeros_like(bad)
    AdamO([{"params": [good, bad], "isometric": True}], iso_every=1).step()
    assert torch.isfinite(good).all()
    assert torch.isnan(bad).all()


def test_it_serves_stable_baselines3_as_optimizer_class():
    """A flat list with the warning, and the schedule's learning rate reaching the isometry step."""
    sb3 = pytest.importorskip("stable_baselines3")
    options = {"optimizer_class": AdamO, "optimizer_kwargs": {"iso_lambda": 0.5}}
    with pytest.warns(UserWarning, match="no parameter group states"):
        model = sb3.PPO(
            "MlpPolicy", "CartPole-v1", lambda left: 1e-3 * left, n_steps=64, policy_kwargs=options
        )
    before = model.policy.optimizer.half_life()
    model.learn(128)
    assert model.policy.optimizer.half_life() > before
    assert model.policy.optimizer.param_groups[0]["iso_updates"] > 0


@pytest.mark.parametrize(
    "option",
    [{"lr": 0.5}, {"betas": (0.1, 0.2)}, {"eps": 0.3}, {"weight_decay": 0.4}, {"amsgrad": True}, {"foreach": True},
     {"maximize": True}, {"capturable": True}, {"fused": True}, {"decoupled_weight_decay": True}],
    ids=lambda option: next(iter(option)),
)  # fmt: skip
def test_every_option_of_adam_is_adams(option):
    ((name, value),) = option.items()
    weight = torch.nn.Parameter(torch.randn(3, 3))
    ours, theirs = (
        AdamO([{"params": [weight], "isometric": True}], **option),
        torch.optim.Adam([weight], **option),
    )
    assert ours.param_groups[0][name] == theirs.param_groups[0][name] == value
    expected = {key: theirs.defaults[key] for key in theirs.defaults if key != name}
    assert {key: ours.defaults[key] for key in expected} == expected
