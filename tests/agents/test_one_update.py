"""What one reads is what runs: a change of the loss, of the optimizer or of a method is felt by every kind of run."""

import logging

import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from torch import nn
from torch.nn import functional as F

from isorl.agents import ContinualDQN, ContinualPPO, compiled, dqn, ppo
from isorl.agents.batched import BatchedRuns, aten
from isorl.agents.batched import learner as learner_module
from isorl.agents.batched import runs as runs_module
from isorl.configs.command_line import composed, resolve
from isorl.plasticity import AdamO, NetworkSpec
from isorl.plasticity.methods import METHODS
from isorl.plasticity.networks.activations import ACTIVATIONS, Activation
from tests.agents.batched.test_runs import build, weights

ADAMO = {"optimizer_class": AdamO, "optimizer_kwargs": {"iso_lambda": 1.0, "iso_every": 1}}
PLACES = {
    "surrogate": (ppo, "surrogate", ContinualPPO),
    "td_loss": (dqn, "td_loss", ContinualDQN),
    "AdamO.step": (AdamO, "step", ContinualPPO),
    "AdamO.isometry_step": (AdamO, "isometry_step", ContinualDQN),
    "a method's loss": (METHODS["l2_init"], "loss", ContinualPPO),
}
"""Where a reader finds what learns, and an agent whose run it takes part in."""


@pytest.fixture(autouse=True)
def nothing_traced_before(monkeypatch):
    monkeypatch.setattr(runs_module, "TRACES", {})


def trained(agent, **options):
    options = {"policy": ADAMO, "methods": ["l2_init"], **options}
    return build(agent, 0, **options).learn(96)


def alone(agent):
    trained(agent)


def several(agent):
    BatchedRuns().results(
        [
            lambda seed=seed: build(agent, seed, policy=ADAMO, methods=["l2_init"]).learn(96)
            for seed in range(3)
        ]
    )


def exact(agent):
    trained(agent, exact=True)


def images(agent):
    trained(agent, env="ALE/Freeway-v5", policy={**ADAMO, "network": NetworkSpec(activation="relu")})


def by_compiler(agent):
    if reason := compiled.why_not():
        pytest.skip(f"there is no {reason}")
    trained(agent, compile=True)


def from_the_command_line(agent):
    from isorl.experiments.run import experiment

    name = {ContinualPPO: "ppo", ContinualDQN: "dqn"}[agent]
    quick = [
        "sequence=catch_permuted-smoke",
        "evaluation.episodes=0",
        "diagnostics.every=0",
        "optimizer=adamo",
    ]
    words = [f"agent={name}", "method=[l2_init]", "run_dir=run", *quick]
    experiment.start(resolve(composed(words)))


RUNS = [alone, several, exact, from_the_command_line, pytest.param(by_compiler, marks=pytest.mark.slow)]


class Felt(Exception):
    """The changed place was reached."""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler, of its own parts
@pytest.mark.parametrize("run", RUNS, ids=lambda run: getattr(run, "__name__", None))
@pytest.mark.parametrize("place", PLACES)
def test_every_run_passes_where_one_reads(place, run, monkeypatch, tmp_path):
    owner, name, agent = PLACES[place]

    def raises(*arguments, **options):
        raise Felt

    monkeypatch.setattr(owner, name, raises)
    monkeypatch.chdir(tmp_path)
    torch._dynamo.reset()
    with pytest.raises(BaseException) as caught:  # noqa: PT011  the compiler wraps it
        run(agent)
    assert "Felt" in repr(caught.value) or "Felt" in str(caught.getrepr())


@pytest.mark.parametrize("kind", [dict(exact=True), dict(exact=False)], ids=["exact", "batched"])
@pytest.mark.parametrize(
    ("module", "name", "agent"), [(ppo, "surrogate", ContinualPPO), (dqn, "td_loss", ContinualDQN)]
)
def test_a_doubled_loss_is_learned_from(module, name, agent, kind, monkeypatch):
    """Adam's first step does not depend on the scale of a gradient, later ones do; nothing is clipped here."""
    plain = getattr(module, name)
    before = build(agent, 0, **kind).learn(64)

    def doubled(*arguments, **options):
        found = plain(*arguments, **options)
        return (2 * found[0], found[1]) if isinstance(found, tuple) else 2 * found

    monkeypatch.setattr(module, name, doubled)
    after = build(agent, 0, max_grad_norm=1e9, **kind).learn(64)
    same = build(agent, 0, max_grad_norm=1e9, **kind)
    monkeypatch.setattr(module, name, plain)
    same.learn(64)
    assert before.engine.name == after.engine.name == ("torch" if kind["exact"] else "batched")
    assert not torch.equal(weights(after), weights(same))


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "batched"])
def test_a_researchers_own_loss(exact):
    """A subclass with another loss, as README has it: every run of it learns by that loss."""

    class Careful(ContinualPPO):
        """PPO that also dislikes large values."""

        def loss(self, batch, coefficients):
            loss, terms = super().loss(batch, coefficients)
            values = self.policy.predict_values(batch.observations)
            penalty = values.square().mean((-1, -2))
            return loss + 10 * penalty, {**terms, "value_penalty": penalty}

    def value(cls):
        agent = build(cls, 0, exact=exact, switches=(2048,), learning_rate=3e-3).learn(1024)
        with torch.no_grad():
            obs = torch.as_tensor(agent._last_obs)
            return agent.policy.predict_values(obs).abs().mean().item(), agent

    plain, _ = value(ContinualPPO)
    careful, agent = value(Careful)
    assert careful < plain / 2
    assert "train/value_penalty" in agent.logger.name_to_value


class Cube(nn.Module):
    """x^3, of which the engine does not know."""

    def forward(self, x):
        return x**3


class Scaled(nn.Module):
    """An activation with a parameter."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return torch.relu(self.scale * x)


class Branching(nn.Module):
    """An activation of which the operations depend on numbers, so that they cannot be written down once."""

    def forward(self, x):
        return torch.relu(x) if x.isfinite().all() else torch.tanh(x)


@pytest.mark.parametrize(("module", "engine"), [(Cube, "batched"), (Scaled, "batched"), (Branching, "torch")])
@pytest.mark.parametrize("agent", [ContinualPPO, ContinualDQN])
def test_a_researchers_own_activation(module, engine, agent, monkeypatch, caplog):
    """One registration, as README has it; where it cannot be traced, the run is plain and says so."""
    monkeypatch.setitem(ACTIVATIONS._entries, "own", Activation(lambda dim: module()))
    network = {"network": NetworkSpec(widths=(16, 16), activation="own")}
    with caplog.at_level(logging.INFO, "isorl"):
        own = build(agent, 0, policy=network).learn(96)
    assert own.engine.name == engine
    assert ("cannot be traced" in caplog.text) == (engine == "torch")
    plain = build(agent, 0, policy=network, exact=True).learn(96)
    torch.testing.assert_close(weights(own), weights(plain), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("agent", [ContinualPPO, ContinualDQN])
@pytest.mark.parametrize("factor", [0.5, float("nan")])
def test_operations_that_differ_from_the_modules_are_left(agent, factor, monkeypatch, caplog):
    """Every run checks before its first step; it warns, naming both places, and goes on by its own modules."""
    plain = build(agent, 0, exact=True).learn(96)
    wrong = {
        aten.aten.threshold_backward.default: lambda gradient, x, threshold: (
            factor * gradient * (x > threshold)
        )
    }
    monkeypatch.setattr(aten, "OPERATIONS", {**aten.OPERATIONS, **wrong})
    with caplog.at_level(logging.WARNING, "isorl"):
        runs = BatchedRuns().results([lambda seed=seed: build(agent, seed).learn(96) for seed in range(2)])
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == 2, "one for each run"
    assert "isorl.agents.batched" in warned[0]
    assert "isorl.agents.policies" in warned[0]
    assert {(run.engine.name, run.engine.runs) for run in runs} == {("torch", 1)}
    torch.testing.assert_close(weights(runs[0]), weights(plain), rtol=1e-4, atol=2e-6)


def test_a_loss_that_changes_after_it_was_traced_is_left(monkeypatch, caplog):
    """A number of Python's, which a trace cannot see, moves after a while: found at the next check."""
    monkeypatch.setattr(learner_module, "CHECK_EVERY", 3)
    plain, factor = dqn.td_loss, [1.0]
    monkeypatch.setattr(dqn, "td_loss", lambda q, target: factor[0] * plain(q, target))

    class Moves(BaseCallback):
        def _on_step(self):
            factor[0] = 1.0 if self.num_timesteps < 64 else 3.0
            return True

    with caplog.at_level(logging.WARNING, "isorl"):
        agent = build(ContinualDQN, 0, switches=(2000,)).learn(128, callback=Moves())
    assert agent.engine.name == "torch"
    [warned] = [record.getMessage() for record in caplog.records]
    assert "isorl.agents.batched" in warned
    assert "the gradient of 'q_net." in warned


@pytest.mark.parametrize("agent", [ContinualPPO, ContinualDQN])
@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_what_was_traced_answers_after_a_switch_where_modules_are_as_they_were(agent, factor, monkeypatch):
    """What a layer multiplies by, which a trace cannot see, moves at the switch, or does not."""
    traces, plain = [], learner_module.traced
    monkeypatch.setattr(learner_module, "traced", lambda *given: traces.append(None) or plain(*given))

    class Times(nn.Module):
        factor = 1.0

        def forward(self, x):
            return x * self.factor

    def run(exact):
        own = build(agent, 0, exact=exact)
        times = Times()
        next(m for m in own.policy.modules() if isinstance(m, nn.Sequential)).append(times)
        switch, before = own.on_switch, []
        own.on_switch = lambda env: (
            before.append(len(traces)),
            setattr(times, "factor", factor),
            switch(env),
        )
        return own.learn(128), before

    own, before = run(exact=False)
    assert own.engine.name == "batched"
    assert before[-1] > 0
    assert (len(traces) > before[-1]) == (factor != 1.0)
    expected = weights(run(exact=True)[0])
    torch.testing.assert_close(weights(own), expected, rtol=1e-3, atol=1e-5)


def test_what_was_traced_answers_in_the_next_run_of_the_process(monkeypatch):
    """Of the project's agents, and only where it still agrees; of a subclass, which may read what is its own, never."""
    traces, plain = [], learner_module.traced
    monkeypatch.setattr(learner_module, "traced", lambda *given: traces.append(None) or plain(*given))
    first = weights(build(ContinualDQN, 0).learn(96))
    made = len(traces)
    assert torch.equal(weights(build(ContinualDQN, 0).learn(96)), first)
    assert len(traces) == made > 0
    loss = dqn.td_loss
    monkeypatch.setattr(dqn, "td_loss", lambda q, target: 1.001 * loss(q, target))
    build(ContinualDQN, 0).learn(96)
    assert len(traces) == made + 1

    class Own(ContinualDQN):
        """Is another only by its name."""

    for _ in range(2):
        before = len(traces)
        build(Own, 0).learn(96)
        assert len(traces) == before + made


def test_what_a_loss_asks_besides_the_minibatch_is_computed():
    """Double DQN: the online network is asked for the next observations, too."""

    class Double(ContinualDQN):
        """van Hasselt et al. 2016."""

        def loss(self, batch):
            with torch.no_grad():
                chosen = self.q_net(batch.next_observations).argmax(-1, keepdim=True)
                next_q = self.q_net_target(batch.next_observations).gather(-1, chosen)
                target = batch.rewards + (1 - batch.dones) * self.gamma * next_q
            q = self.q_net(batch.observations).gather(-1, batch.actions.long())
            return dqn.td_loss(q[..., 0], target[..., 0])

    options = dict(switches=(400,), target_update_interval=200, learning_rate=1e-2)
    own, plain = (build(Double, 0, exact=exact, **options).learn(400) for exact in (False, True))
    assert own.engine.name == "batched"
    torch.testing.assert_close(weights(own), weights(plain), rtol=1e-3, atol=1e-5)
    assert not torch.equal(weights(own), weights(build(ContinualDQN, 0, **options).learn(400)))


@pytest.mark.parametrize(
    ("loss", "engine"),
    [(lambda q, target: (q - target).abs().clamp(max=5).mean(-1) + F.mse_loss(q, target), "batched"),
     (lambda q, target: torch.special.i0(q - target).mean(-1), "batched"),
     (lambda q, target: (q - target).square().mean(-1) * (2 if q.mean() > target.mean() else 1), "torch")],
    ids=["reduced at once", "an operation that numpy does not know", "a branch on a number"],
)  # fmt: skip
def test_any_loss_is_learned_from(loss, engine, monkeypatch, caplog):
    """What cannot be traced is the modules', in the first update, too, and says so."""
    monkeypatch.setattr(dqn, "td_loss", loss)
    with caplog.at_level(logging.INFO, "isorl"):
        own = build(ContinualDQN, 0).learn(96)
    assert own.engine.name == engine
    assert ("cannot be traced" in caplog.text) == (engine == "torch")
    plain = build(ContinualDQN, 0, exact=True).learn(96)
    torch.testing.assert_close(weights(own), weights(plain), rtol=1e-3, atol=1e-5)


def test_a_researchers_own_update():
    """Two losses for one step, the second at half its weight."""

    class Twice(ContinualDQN):
        """Averages over two minibatches."""

        def update(self, gradient_steps, batch_size):
            losses = []
            for _ in range(gradient_steps):
                first, second = (self.loss(self.replay_buffer.sample(batch_size)) for _ in range(2))
                self.policy.optimizer.zero_grad()
                (first + 0.5 * second).sum().backward()
                self.clip_gradients()
                self.policy.optimizer.step()
                losses.append(first.detach())
            return torch.stack(losses).mean(0)

    own, plain = (build(Twice, 0, exact=exact).learn(96) for exact in (False, True))
    assert own.engine.name == "batched"
    torch.testing.assert_close(weights(own), weights(plain), rtol=1e-3, atol=1e-5)


def test_a_run_that_computes_for_itself_says_so_and_why():
    agent = build(ContinualPPO, 0, exact=True)
    with BatchedRuns().member(agent):
        assert agent.engine == ("torch", 1, "exact=true computes what its modules compute, in torch")
