"""Runs that share a process compute what each computes alone: every network, optimizer and method."""

import os
import signal
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.optim import Adam, AdamW

from isorl.agents import ContinualDQN, ContinualPPO
from isorl.agents.batched import BatchedRuns, unbatchable_reason
from isorl.agents.batched import runs as runs_module
from isorl.agents.batched.kinds import BatchedOnPolicy
from isorl.configs.errors import Interrupted
from isorl.configs.schema import SequenceConfig, SwitchConfig, TaskConfig
from isorl.envs import Sequence, SwitchingVecEnv
from isorl.experiments.run.stopping import StopRequest
from isorl.plasticity import AdamO, NetworkSpec
from isorl.plasticity.methods import METHODS
from isorl.plasticity.networks.activations import ACTIVATIONS
from tests.agents.methods.conftest import needs

SEEDS = (0, 1, 2)
TOLERANCE = dict(rtol=1e-4, atol=2e-6)
"""Of weights after some tens of updates: rounding, of which Adam's division makes more."""
LOOSER = {"c_chain": dict(rtol=1e-2, atol=1e-4), "muon": dict(rtol=1e-2, atol=2e-4)}
"""Of methods that divide by small differences, which are rounding to a larger part, and of bfloat16."""
ARGUMENTS = {
    ContinualPPO: dict(n_steps=16, batch_size=16, n_epochs=2, learning_rate=1e-3, ent_coef=0.01),
    ContinualDQN: dict(learning_starts=16, buffer_size=200, batch_size=16, train_freq=2, gradient_steps=2,
                       learning_rate=1e-3, target_update_interval=20),
}  # fmt: skip
ACTS_SOON = {
    "head_normalised": {"max_norm": 0.1},
    "adaptive_isometry": {"every": 2, "patience": 1, "decline": 1.2, "index": "dormant_units"},
    "shrink_and_perturb": {"every": 2},
    "redo": {"every": 2, "tau": 0.9},
    "continual_backprop": {"maturity": 1, "replacement_rate": 0.1},
    "regrama": {"every": 2, "tau": 0.9},
    "cpr": {"every": 2, "rate": 0.5},
    "hare_and_tortoise": {"every": 2, "momentum": 0.9},
    "weight_clipping": {"scale": 0.5},
    "self_normalised_resets": {"prior": 2, "threshold": 0.9, "every": 1},
}
ALONE = {
    "feature_rank": "other parameters than those of the networks",
    "kron": "the optimizer is ResumableKron",
    "plasticity_injection": "some of its weights are frozen",
    "spectral_norm": "a layer keeps more than its weights",
    "trac": "the optimizer is Trac",
    "upgd": "the optimizer is PerturbedAdam",
}
"""Methods whose networks or optimizers are not computed together, and the reason that is given."""
CASES = [(agent, name) for agent in ARGUMENTS for name in sorted(METHODS) if not METHODS[name]().needs_labels]


def _is_rare(agent, name):
    """DQN with what resets nothing: its loss is added as PPO's is."""
    return agent is ContinualDQN and METHODS[name].resets == "nothing"


def build(agent, seed, env="isorl/Catch-v0", methods=(), switches=(64, 64), **kwargs):
    own, methods = [m for m in methods if isinstance(m, type)], [m for m in methods if isinstance(m, str)]
    for name in methods:
        if METHODS[name].requires:
            pytest.importorskip(METHODS[name].requires)
    tasks = [TaskConfig(env, name=f"task{i}", agent_steps=steps) for i, steps in enumerate(switches)]
    sequence = Sequence.from_config(SequenceConfig("two tasks", tasks), seed, 2)
    policy = {"network": NetworkSpec(widths=(16, 16), activation="relu"), **kwargs.pop("policy", {})}
    if policy["network"].body == "auto":
        policy["network"] = replace(policy["network"], body="mlp")  # Catch shows images
    chosen = {
        "exact": False,
        "switch": SwitchConfig(),
        **next(own for base, own in ARGUMENTS.items() if issubclass(agent, base)),
        **kwargs,
    }
    given = {name: METHODS[name](**ACTS_SOON.get(name, {})) for name in methods}
    given |= {cls.__name__: cls() for cls in own}
    env = SwitchingVecEnv(sequence, 2, seed)
    return agent("NetworkPolicy", env, seed=seed, device="cpu", policy_kwargs=policy, methods=given, **chosen)


def weights(agent):
    return torch.cat([p.detach().flatten() for p in agent.policy.parameters()])


def moments(agent):
    state = agent.policy.optimizer.state_dict()["state"]
    tensors = [value for each in state.values() for value in each.values() if isinstance(value, torch.Tensor)]
    return torch.cat([tensor.flatten().float() for tensor in tensors])


@contextmanager
def plainly():
    """Runs inside compute by torch's modules alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs_module, "unbatchable_reason", lambda agent: "as the test wants it")
        yield


def alone(steps=128, seeds=SEEDS, **kwargs):
    """The agents, each trained by its own modules."""
    with plainly():
        return [build(seed=seed, **kwargs).learn(steps) for seed in seeds]


def together(steps=128, seeds=SEEDS, job=None, **kwargs):
    """The agents, trained in one process."""

    def train(seed):
        return build(seed=seed, **kwargs).learn(steps)

    return BatchedRuns().results([lambda seed=seed: (job or train)(seed) for seed in seeds])


@pytest.fixture
def batched(monkeypatch):
    """How often learners of several runs did what."""
    count = dict.fromkeys(runs_module.PHASES, 0)
    plain = BatchedRuns._answer

    def counted(runs, learner, phase, arguments):
        answer = plain(runs, learner, phase, arguments)
        count[phase] += len(learner.agents) > 1
        return answer

    monkeypatch.setattr(BatchedRuns, "_answer", counted)
    return count


def assert_same(many, single, tolerance=TOLERANCE):
    for ours, theirs in zip(many, single, strict=True):
        torch.testing.assert_close(weights(ours), weights(theirs), **tolerance)
        torch.testing.assert_close(moments(ours), moments(theirs), **tolerance)
        assert ours.num_timesteps == theirs.num_timesteps
        assert ours._n_updates == theirs._n_updates


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("layer_norm", [False, True], ids=["plain", "layer_norm"])
def test_every_network(activation, layer_norm, batched):
    policy = {"network": NetworkSpec(widths=(16, 16), activation=activation, layer_norm=layer_norm)}
    assert_same(together(agent=ContinualPPO, policy=policy), alone(agent=ContinualPPO, policy=policy))
    assert batched["learn"] == 4


@pytest.mark.parametrize("agent", ARGUMENTS)
@pytest.mark.parametrize(
    "optimizer",
    [(Adam, {"eps": 1e-5, "weight_decay": 0.01}), (AdamW, {"weight_decay": 0.1}), (AdamO, {"iso_lambda": 1.0}),
     (AdamO, {"iso_lambda": 1.0, "iso_every": 3, "iso_target": 2.0})],
    ids=["adam", "adamw", "adamo", "adamo every third"],
)  # fmt: skip
def test_every_optimizer(agent, optimizer, batched):
    policy = dict(zip(("optimizer_class", "optimizer_kwargs"), optimizer, strict=True))
    assert_same(together(agent=agent, policy=policy), alone(agent=agent, policy=policy))
    assert batched["learn"]


@pytest.mark.parametrize(
    ("agent", "name"),
    [pytest.param(agent, name, marks=[pytest.mark.slow] * _is_rare(agent, name)) for agent, name in CASES],
    ids=lambda case: getattr(case, "__name__", case),
)
def test_every_method(agent, name, batched):
    """Over a task switch. What is not computed together is computed by each run, with the same result."""
    arguments = dict(agent=agent, methods=[name], policy=needs(name).get("policy_kwargs", {}))
    many = together(**arguments)
    assert_same(many, alone(**arguments), LOOSER.get(name, TOLERANCE))
    reason = unbatchable_reason(build(seed=0, **arguments))
    if name in ALONE:
        assert ALONE[name] in reason
        assert not batched["learn"]
    else:
        assert reason is None
        assert batched["learn"]


@pytest.mark.parametrize(
    "methods",
    [
        ["shrink_and_perturb", "continual_backprop"],
        ["redo", "shrink_and_perturb"],
        ["muon", "redo"],
        ["muon", "reperturbation"],
    ],
)
def test_methods_that_act_one_after_the_other(methods, batched):
    """The second sees the weights as the first left them."""
    arguments = dict(agent=ContinualPPO, methods=methods)
    assert_same(together(**arguments), alone(**arguments), LOOSER.get(methods[0], TOLERANCE))
    assert batched["learn"]


@pytest.mark.parametrize("env", ["Pendulum-v1", "CartPole-v1", "isorl/NineRooms-v0"])
def test_other_environments(env, batched):
    """Gaussian actions; episodes that end, and that are cut at their time limit."""
    arguments = dict(agent=ContinualPPO, env=env, switches=(512,), steps=512, seeds=(3, 4))
    assert_same(together(**arguments), alone(**arguments))
    assert batched["learn"] == 16


def test_target_networks_and_exploration(batched):
    arguments = dict(
        agent=ContinualDQN, switches=(400,), steps=400, exploration_fraction=0.2, max_grad_norm=0.1
    )
    many, single = together(**arguments), alone(**arguments)
    assert_same(many, single)
    for ours, theirs in zip(many, single, strict=True):
        np.testing.assert_array_equal(ours.replay_buffer.actions, theirs.replay_buffer.actions)
        np.testing.assert_array_equal(ours.replay_buffer.observations, theirs.replay_buffer.observations)


@pytest.mark.parametrize(
    "options",
    [{"clip_range_vf": 0.1}, {"normalize_advantage": False}, {"max_grad_norm": 0.01}, {"max_grad_norm": None},
     {"target_kl": 1e-4}, {"clip_range": lambda progress: 0.2 * progress},
     {"learning_rate": lambda progress: 1e-3 * progress}],
    ids=["clip_range_vf", "raw advantages", "clipped gradients", "gradients as they are", "target_kl",
         "falling clip range", "falling rate"],
)  # fmt: skip
def test_options(options, batched):
    assert_same(together(agent=ContinualPPO, **options), alone(agent=ContinualPPO, **options))
    assert batched["learn"] == (0 if {"target_kl", "clip_range"} & options.keys() else 4)


def test_optimizers_reset_at_a_switch():
    arguments = dict(agent=ContinualPPO, switch=SwitchConfig(optimizer="reset"))
    assert_same(together(**arguments), alone(**arguments))


@pytest.mark.parametrize("agent", ARGUMENTS)
@pytest.mark.parametrize(
    "options",
    [{}, {"methods": ["redo", "l2_init"]}, {"methods": ["gram"]}, {"methods": ["jacobian"]},
     {"methods": ["parseval", "l2", "wasserstein_init"]},
     {"methods": ["muon"]}, {"max_grad_norm": 0.01}, {"policy": {"network": NetworkSpec()}},
     {"policy": {"network": NetworkSpec(activation="maxmin"), "optimizer_class": AdamO}},
     {"policy": {"network": NetworkSpec(activation="tanh", layer_norm=True)}}],
    ids=["small", "methods", "gram", "jacobian", "more methods", "muon", "clipped", "relu", "aei", "layer_norm"],
)  # fmt: skip
def test_what_a_run_learns_does_not_depend_on_the_others(agent, options):
    """To the bit, so that it does not matter how a grid was split into jobs, nor which of its runs died on the way."""
    many = together(agent=agent, seeds=(0, 1, 2, 3, 4, 5, 6), **options)
    for seeds in ((1,), (0, 1), (1, 5, 0)):
        for seed, run in zip(seeds, together(agent=agent, seeds=seeds, **options), strict=True):
            assert torch.equal(weights(run), weights(many[seed]))
            assert torch.equal(moments(run), moments(many[seed]))


@pytest.mark.parametrize("agent", ARGUMENTS)
def test_visits_that_end_at_different_times_change_no_bit(agent):
    """Rollouts of different length, and runs that wait for others: each still computes what it computes alone."""

    def job(seed):
        tasks = [
            TaskConfig("isorl/Catch-v0", name=f"task{i}", agent_steps=500, episodes=3 + seed)
            for i in range(3)
        ]
        made = build(agent, seed)
        made.set_env(SwitchingVecEnv(Sequence.from_config(SequenceConfig("early", tasks), seed, 2), 2, seed))
        return made.learn(160)

    many = together(job=job, seeds=(0, 1, 2))
    for seed, run in enumerate(many):
        [one] = together(job=lambda _, seed=seed: job(seed), seeds=(0,))
        assert torch.equal(weights(run), weights(one))
        assert run._n_updates == one._n_updates


def test_runs_of_different_length(batched):
    """The one that goes on alone ends as it would have ended."""

    def job(seed):
        agent = build(ContinualPPO, seed)
        return agent.learn(64 if seed == 0 else 128 if seed == 1 else 256)

    short, middle, long = together(job=job)
    for seed, (agent, steps) in enumerate(((short, 64), (middle, 128), (long, 256))):
        torch.testing.assert_close(
            weights(agent), weights(build(ContinualPPO, seed).learn(steps)), **TOLERANCE
        )
    assert BatchedRuns.current is None


def test_runs_that_have_learned_for_different_times(batched):
    """As after a crash in the middle of saving: each counts its own updates."""

    def job(seed):
        agent = build(ContinualPPO, seed, switches=(10_000,))
        if seed in (1, 2):
            with plainly():
                agent.learn(64)
        return agent.learn(96, reset_num_timesteps=False)

    ends = together(job=job, seeds=(0, 1, 2, 3))
    for seed, agent in enumerate(ends):
        single = build(ContinualPPO, seed, switches=(10_000,))
        if seed in (1, 2):
            single.learn(64)
        single.learn(96, reset_num_timesteps=False)
        torch.testing.assert_close(weights(agent), weights(single), **TOLERANCE)
    assert batched["learn"] == 3, "of all four"


def adamo(**options):
    return {"optimizer_class": AdamO, "optimizer_kwargs": {"iso_lambda": 1.0, **options}}


@pytest.mark.parametrize(
    ("agent", "differ"),
    [(ContinualPPO, [{}, {"learning_rate": 3e-4}, {"ent_coef": 0.1, "vf_coef": 1.0},
                     {"gamma": 0.9, "gae_lambda": 0.5}, {"max_grad_norm": 0.01},
                     {"learning_rate": lambda progress: 1e-3 * progress}]),
          (ContinualPPO, [{}, {"methods": ["l2_init"]}, {"methods": ["redo"]},
                     {"methods": ["gram", "shrink_and_perturb"]},
                     {"methods": ["jacobian"]}, {"methods": ["jacobian"]}]),
     (ContinualPPO, [{"policy": adamo(**each)} for each in
                     ({}, {"iso_lambda": 0.1}, {"iso_lambda": 0.0}, {"iso_every": 3}, {"iso_lr": 1e-3, "iso_every": 1},
                      {"betas": (0.5, 0.9), "eps": 1e-3}, {"weight_decay": 0.1})]),
     (ContinualDQN, [{}, {"learning_rate": 3e-4}, {"gamma": 0.5}, {"max_grad_norm": 0.01}, {"methods": ["l2"]},
                     {"exploration_fraction": 0.5}])],
    ids=["PPO", "methods", "AdamO", "DQN"],
)  # fmt: skip
def test_runs_that_differ_in_what_they_are_told(agent, differ, batched):
    def job(number):
        run = build(agent, number, **differ[number])
        return run.learn(128)

    many = together(job=job, seeds=range(len(differ)))
    assert batched["learn"] == (4 if agent is ContinualPPO else 24), "all at once"
    assert_same(many, [build(agent, seed, **options).learn(128) for seed, options in enumerate(differ)])


@pytest.mark.parametrize(
    "other",
    [{"policy": {"network": NetworkSpec(widths=(16,))}}, {"clip_range": 0.05}, {"clip_range_vf": 0.2}],
    ids=["network", "clip_range", "clip_range_vf"],
)
def test_runs_of_other_forms_are_computed_beside(other, batched):
    """Two learners of two, each trained as one."""
    forms = [other, {}] * 2

    def job(number):
        run = build(ContinualPPO, number, **forms[number])
        return run.learn(128)

    many = together(job=job, seeds=range(4))
    assert batched["learn"] == 8
    assert_same(many, [build(ContinualPPO, seed, **options).learn(128) for seed, options in enumerate(forms)])


@pytest.mark.filterwarnings(  # of stable-baselines3's explained_variance
    "ignore:overflow encountered in square", "ignore:invalid value encountered in scalar divide"
)
@pytest.mark.parametrize("number", [float("nan"), 1e10], ids=["nan", "overflow"])
@pytest.mark.parametrize("methods", [[], ["jacobian"]], ids=["plain", "with singular values"])
def test_numbers_that_are_not_finite_stay_in_their_run(number, methods):
    """And warn of nothing: the run's own watch says what happened."""

    def job(seed):
        agent = build(ContinualPPO, seed, max_grad_norm=0.01, methods=methods)
        if seed == 1:
            for parameter in agent.policy.parameters():
                parameter.data.fill_(number)
        return agent.learn(128)

    first, second, third = together(job=job)
    assert weights(second).isnan().any()
    single = [build(ContinualPPO, seed, max_grad_norm=0.01, methods=methods).learn(128) for seed in (0, 2)]
    assert_same([first, third], single)


def test_an_error_in_one_run_is_its_own():
    def job(seed):
        agent = build(ContinualPPO, seed)
        with BatchedRuns.current.member(agent):
            agent.learn(64)
            if seed == 1:
                raise ValueError("on purpose")
            return agent.learn(64, reset_num_timesteps=False)

    first, second, third = BatchedRuns().run([lambda seed=seed: job(seed) for seed in SEEDS])
    assert isinstance(second, ValueError)
    for seed, agent in ((0, first), (2, third)):
        single = build(ContinualPPO, seed).learn(64).learn(64, reset_num_timesteps=False)
        torch.testing.assert_close(weights(agent), weights(single), **TOLERANCE)


@pytest.mark.parametrize("agent", ARGUMENTS)
@pytest.mark.parametrize("place", ["loss", "after_update"])
def test_an_error_of_a_runs_method_ends_that_run(agent, place, monkeypatch):
    """At its third call; the others compute what they compute without it."""
    arguments = dict(agent=agent, methods=["gram"])

    def job(seed):
        made = build(seed=seed, **arguments)
        calls, method = [], made.methods.by_name["gram"]
        plain = getattr(method, place)

        def fails(batch):
            calls.append(1)
            if seed == 1 and len(calls) == 3:
                raise ArithmeticError("on purpose")
            return plain(batch)

        monkeypatch.setattr(method, place, fails)
        return made.learn(128)

    first, second, third = BatchedRuns().run([lambda seed=seed: job(seed) for seed in SEEDS])
    assert isinstance(second, ArithmeticError)
    assert_same([first, third], alone(seeds=(0, 2), **arguments))


def test_an_error_in_what_is_computed_together_ends_every_run(monkeypatch):
    def fails(learner, arguments):
        raise RuntimeError("on purpose")

    monkeypatch.setattr(BatchedOnPolicy, "learn", fails)
    with pytest.raises(RuntimeError, match="on purpose"):
        together(agent=ContinualPPO)


def test_random_draws_are_each_runs_own():
    """What one run draws, another does not see; afterwards the process's streams are as they were."""
    torch.manual_seed(7)
    np.random.seed(7)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    batch, drawn = BatchedRuns(), {}

    def job(seed):
        agent = build(ContinualPPO, seed)
        with batch.member(agent):
            batch.request(agent, "values", agent.env.reset())
            with agent.rng.installed():
                drawn[seed] = torch.rand(3), np.random.rand(3)

    torch.set_rng_state(before[0])
    assert batch.run([lambda seed=seed: job(seed) for seed in SEEDS]) == [None] * 3
    for seed in SEEDS:
        build(ContinualPPO, seed)
        torch.testing.assert_close(drawn[seed][0], torch.rand(3), rtol=0, atol=0)
        np.testing.assert_array_equal(drawn[seed][1], np.random.rand(3))


def test_a_signal_reaches_every_run():
    batch, requests = BatchedRuns(), []

    def job(seed):
        request = StopRequest()
        requests.append(request)
        agent = build(ContinualPPO, seed)
        with request.heard(), batch.member(agent):
            agent.learn(16)
            batch.request(agent, "values", agent.env.reset())
            if seed == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            batch.request(agent, "values", agent.env.reset())
            request.check()

    before = signal.getsignal(signal.SIGTERM)
    ends = batch.run([lambda seed=seed: job(seed) for seed in SEEDS])
    assert [type(end) for end in ends] == [Interrupted] * 3
    assert [request.number for request in requests] == [signal.SIGTERM] * 3
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("change", "reason"),
    [(dict(exact=True), "what its modules compute"), (dict(precision="bfloat16"), "float32"),
     (dict(policy={"network": NetworkSpec(body="nature_cnn")}, env="ALE/Freeway-v5"), "no MLP")],
    ids=["exact", "bfloat16", "images"],
)  # fmt: skip
def test_why_a_run_is_alone(change, reason):
    agent = build(ContinualPPO, 0, **change)
    assert reason in unbatchable_reason(agent)


def test_an_agent_that_does_not_say_how_is_alone():
    class Own(ContinualPPO):
        batched_as = None

    assert "Own computes each run for itself" in unbatchable_reason(build(Own, 0))
