import dataclasses
import itertools
import logging
import random

import numpy as np
import pytest
import torch

from isorl.plasticity.adamo import AdamO
from isorl.plasticity.methods import METHODS, Batch, Method, Methods
from isorl.plasticity.networks.spec import NetworkSpec
from tests.plasticity.methods.conftest import Trained, mlp


def together(*names):
    return Methods({name: METHODS[name]() for name in names})


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("crelu", "prelu"), "both decide the activation"),
        (("trac", "muon"), "both decide the optimizer"),
        (("redo", "continual_backprop"), "both decide which units are recycled"),
        (("layer_norm", "normalise_and_project"), "both decide the norm layers"),
        (("spectral_norm", "normalise_and_project"), "both decide the scale of hidden weights"),
        (("head_reset", "full_reset"), "both decide when the head is drawn anew"),
        (("plasticity_injection", "redo"), "relies on"),
        (("gram", "plasticity_injection"), "relies on"),
        (("l2", "plasticity_injection"), "relies on"),
        (("weight_clipping", "plasticity_injection"), "relies on"),
    ],
)
def test_what_cannot_combine_is_refused_with_both_names_and_the_reason(names, reason):
    with pytest.raises(ValueError, match=reason) as error:
        together(*names)
    assert all(f"'{name}'" in str(error.value) for name in names)


@pytest.mark.parametrize(("a", "b"), list(itertools.combinations(METHODS, 2)))
def test_every_pair_combines_or_is_refused_in_either_order(a, b):
    refusals = []
    for names in ((a, b), (b, a)):
        try:
            together(*names)
        except ValueError as refusal:
            refusals.append(str(refusal))
    assert len(refusals) in (0, 2)
    assert all(f"'{a}'" in refusal and f"'{b}'" in refusal for refusal in refusals)


def test_methods_act_in_the_order_given_and_say_so():
    calls = []

    @dataclasses.dataclass
    class Call(Method):
        tag: str = "a"

        def after_update(self, batch):
            calls.append(self.tag)

        def loss(self, batch):
            calls.append("loss " + self.tag)

    methods = Methods({"first": Call("first"), "second": Call("second")})
    assert methods.add_loss(torch.zeros(()), Batch(lambda: None)) == 0
    methods.after_update(None)
    assert calls == ["loss first", "loss second", "first", "second"]
    assert str(methods).index("first") < str(methods).index("second")
    assert str(Methods()) == "none"
    assert logging.getLogger("isorl")


@pytest.mark.parametrize("name", ["crelu", "deep_fourier", "prelu", "leaky_relu"])
def test_an_activation_does_not_silently_replace_an_isometric_one(name):
    assert METHODS[name]().network(NetworkSpec(activation="tanh")).activation == name
    with pytest.raises(ValueError, match=f"'{name}' and network 'maxmin'"):
        METHODS[name]().network(NetworkSpec(activation="maxmin"))


@pytest.mark.parametrize("name", ["trac", "muon", "kron", "spectral_norm"])
def test_adamo_is_not_silently_replaced(name):
    with pytest.raises(ValueError, match=f"'{name}' and optimizer 'adamo'"):
        METHODS[name]().optimizer(AdamO, {})


def test_a_state_of_other_methods_is_refused():
    with pytest.raises(ValueError, match=r"methods \['l2_init'\], but this run has \['redo'\]"):
        Trained(METHODS["redo"](), q=mlp(2, 3, 1)) and together("redo").load_state_dict({"l2_init": {}})


ANY_VALUE = {("l2", "decoupled"), ("feature_rank", "scale")}
"""Options of which any value means something."""
BAD = {
    "strength": -1.0, "shrink": 0.0, "noise": -1.0, "every": -1, "layers": 0, "tau": -0.1, "maturity": -1, "decay": 1.5,
    "replacement_rate": 2.0, "threshold": 0.0, "prior": 1, "heads": 0, "projections": -1, "samples": 0, "beta": 1.0,
    "momentum": 1.0, "at_switch": 0, "at_update": -1, "target": 0.0, "size": 0,
    "index": "ntk", "factor": 1.0, "decline": 1.0, "recovery": 9.0, "patience": 0,
    "lowest": 2.0, "highest": 0.5,
    "iterations": 0, "rank_drop": 1.5, "weight_decay": -1.0, "rank_rate": -1.0, "fraction": 2.0, "moments": -0.5,
    "slices": 0, "points": 1, "power": 0, "rate": 2.0, "sharpness": -1.0,
    "max_norm": 0.0,
}  # fmt: skip
BAD_OF = {("hare_and_tortoise", "momentum"): 1.5, ("weight_clipping", "scale"): 0.0}
"""Where a method's bounds are others."""


@pytest.mark.parametrize(
    ("name", "option"),
    [
        (name, f.name)
        for name, method in METHODS.items()
        for f in dataclasses.fields(method)
        if (name, f.name) not in ANY_VALUE
    ],
)
def test_every_number_has_bounds(name, option):
    bad = BAD_OF[name, option] if (name, option) in BAD_OF else BAD[option]
    with pytest.raises(ValueError, match=rf"{name}\.{option} is {bad!r}; it must be"):
        METHODS[name](**{option: bad})


@dataclasses.dataclass
class Counts(Method):
    """Counts updates and averages inputs."""

    every: int = 2

    def start(self, learner):
        self.count, self.limit = 0, 3.0
        self.average = torch.zeros(3)

    def after_update(self, batch):
        self.count += 1
        self.average.lerp_(batch.inputs.mean(0), 0.1)


class CountsInAnArray(Counts):
    saved = ("count", "average")

    def __init__(self):
        super().__init__()
        self.seen = np.zeros(2)

    def after_update(self, batch):
        super().after_update(batch)
        self.seen += 1


class SavesAll(Counts):
    saved = ("count", "average")


class SavesByItself(Counts):
    def state_dict(self):
        return {"count": self.count}


class Draws(Method):
    """Draws from generators of its own, and from the one that is kept."""

    saved = ("seen",)

    def start(self, learner):
        self.own = [np.random.default_rng(0), np.random.RandomState(0), random.Random(0), torch.Generator()]
        self.first, self.second, self.third, self.fourth = self.own
        self.kept, self.untouched, self.seen = learner.generator, np.random.default_rng(0), [np.int64(0)]

    def after_update(self, batch):
        self.first.random(), self.second.rand(), self.third.random()
        self.seen.append((np.mean([1.0, 2.0]), np.bool_(True)))
        for generator in (self.fourth, self.kept):
            torch.rand((), generator=generator)


def test_random_generators_that_no_checkpoint_holds_are_named():
    trained = Trained(Draws(), q=mlp(3, 4, 1))
    assert trained.methods.forgotten() == []
    trained.methods.after_update(Batch(lambda: torch.randn(8, 3)))
    [said] = trained.methods.forgotten()
    assert "draws from first, fourth, second, third, which no checkpoint holds" in said


def test_numbers_of_numpy_are_saved_as_numbers():
    trained = Trained(Draws(), q=mlp(3, 4, 1))
    trained.methods.after_update(Batch(lambda: torch.randn(8, 3)))
    [state] = trained.methods.state_dict().values()
    assert state == {"seen": [0, (1.5, True)]}
    assert [type(part) for part in (state["seen"][0], *state["seen"][1])] == [int, float, bool]


@pytest.mark.parametrize(
    ("cls", "named"),
    [(Counts, "average, count"), (CountsInAnArray, "seen"), (SavesAll, ""), (SavesByItself, "")],
)
def test_what_a_resumed_run_would_not_know_is_named(cls, named):
    trained = Trained(cls(), q=mlp(3, 4, 1))
    assert trained.methods.forgotten() == []
    x = torch.randn(8, 3)
    trained.methods.after_update(Batch(lambda: x))
    said = trained.methods.forgotten()
    assert len(said) == bool(named)
    assert all(f"changes {named}, which its `saved` does not name" in sentence for sentence in said)
