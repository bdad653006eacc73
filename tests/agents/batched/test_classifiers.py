"""Classifiers that share a process compute what each computes alone: every method, masked heads, other seeds."""

from dataclasses import replace

import pytest
import torch

from isorl.agents import ContinualClassifier
from isorl.agents.batched import BatchedRuns, unbatchable_reason
from isorl.configs.schema import SequenceConfig, SwitchConfig, TaskConfig
from isorl.envs import Sequence, SwitchingVecEnv
from isorl.plasticity import AdamO, NetworkSpec
from isorl.plasticity.methods import METHODS
from tests.agents.batched.test_runs import ACTS_SOON, ALONE, LOOSER, TOLERANCE, assert_same, batched, plainly
from tests.agents.methods.conftest import needs

__all__ = ["batched"]  # a fixture
SEEDS = (0, 1, 2)


def build(seed, methods=(), heads=("all", "all"), policy=None, **options):
    for name in methods:
        if METHODS[name].requires:
            pytest.importorskip(METHODS[name].requires)
    tasks = [
        TaskConfig(
            "isorl/Digits-v0",
            name=f"labels{i}",
            agent_steps=160,
            kwargs={**SPLIT, "split_index": i, "head": head},
        )
        for i, head in enumerate(heads)
    ]
    env = SwitchingVecEnv(Sequence.from_config(SequenceConfig("two tasks", tasks), seed, 16), 16, seed)
    policy = {"network": NetworkSpec(widths=(16, 16)), **(policy or {})}
    policy["network"] = replace(policy["network"], body="mlp")  # digits are images
    given = {name: METHODS[name](**ACTS_SOON.get(name, {})) for name in methods}
    options = {"exact": False, "learning_rate": 1e-3, "switch": SwitchConfig(), **options}
    return ContinualClassifier(
        "NetworkPolicy", env, seed=seed, device="cpu", policy_kwargs=policy, methods=given, **options
    )


SPLIT = {"classes_per_task": 5, "standardise": True}


def alone(seeds=SEEDS, **options):
    """Trains every classifier by its own modules."""
    with plainly():
        return [build(seed, **options).learn(320) for seed in seeds]


def together(seeds=SEEDS, **options):
    """Trains them in one process."""
    return BatchedRuns().results([lambda seed=seed: build(seed, **options).learn(320) for seed in seeds])


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method(name, batched):
    """Over a task switch. What is not computed together is computed by each run, with the same result."""
    options = dict(methods=[name], policy=needs(name).get("policy_kwargs", {}))
    many = together(**options)
    assert_same(many, alone(**options), LOOSER.get(name, TOLERANCE))
    reason = unbatchable_reason(build(0, **options))
    assert ALONE[name] in reason if name in ALONE else reason is None, reason
    assert bool(batched["learn"]) == (name not in ALONE)


@pytest.mark.parametrize("heads", [("masked", "masked"), ("all", "masked")])
def test_masked_heads(heads, batched):
    many = together(heads=heads)
    assert_same(many, alone(heads=heads))
    assert batched["learn"] == 20
    masks = {seed: heads for seed in (0, 1)} | {2: ("all", "all")}
    mixed = BatchedRuns().results(
        [lambda seed=seed, own=own: build(seed, heads=own).learn(320) for seed, own in masks.items()]
    )
    assert_same(mixed, [*many[:2], *alone(seeds=[2])])


@pytest.mark.parametrize(
    "options",
    [{}, {"max_grad_norm": 0.01}, {"policy": {"optimizer_class": AdamO, "optimizer_kwargs": {"iso_lambda": 1.0}}},
     {"methods": ["gram", "continual_backprop"]}],
    ids=["plain", "clipped", "adamo", "methods"],
)  # fmt: skip
def test_what_a_run_learns_does_not_depend_on_the_others(options):
    many = together(seeds=range(5), **options)
    for seeds in ((1,), (4, 0)):
        for run, seed in zip(together(seeds=seeds, **options), seeds, strict=True):
            assert all(map(torch.equal, run.policy.parameters(), many[seed].policy.parameters()))


def test_runs_that_differ_in_rates_and_strengths(batched):
    """As the candidates of a tuning do."""
    differ = [{"learning_rate": 1e-2}, {"learning_rate": 1e-4}, {"methods": ["l2_init"]}]
    jobs = [lambda seed=seed, own=own: build(seed, **own).learn(320) for seed, own in enumerate(differ)]
    many = BatchedRuns().results(jobs)
    with plainly():
        assert_same(many, [job() for job in jobs])
    assert batched["learn"] == 20


def test_images_in_convolutions_are_alone():
    assert "no MLP" in unbatchable_reason(
        ContinualClassifier(
            "NetworkPolicy",
            build(0).env,
            policy_kwargs={"network": NetworkSpec(body="small_cnn")},
            device="cpu",
            exact=False,
        )
    )
