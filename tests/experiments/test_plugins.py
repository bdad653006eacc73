"""What Python registers is a choice of the command line with the defaults of its dataclass."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from hydra.core.config_store import ConfigStore

from isorl.agents import ContinualPPO, options
from isorl.configs import UserError, command_line
from isorl.configs.command_line import check_overrides, composed, resolve
from isorl.envs.shifts import SHIFTS, FlipObservation
from isorl.experiments import plugins
from isorl.experiments.run.experiment import build
from isorl.plasticity.networks import NETWORKS, NetworkSpec


class SlowAdam(torch.optim.Adam):
    pass


@dataclass(frozen=True)
class SlowAdamOptions(options.AdamOptions):
    """Adam, slowly."""

    name: str = "slow_adam"
    betas: tuple[float, float] = (0.5, 0.6)


@dataclass(frozen=True)
class MyPPOOptions(options.PPOOptions):
    """PPO with shorter rollouts."""

    name: str = "my_ppo"
    n_steps: int = 16


class MyPPO(ContinualPPO):
    pass


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(ConfigStore.instance(), "repo", dict(ConfigStore.instance().repo))
    for registry, name, entry in (
        (options.OPTIMIZERS, "slow_adam", (SlowAdam, SlowAdamOptions)),
        (options.AGENTS, "my_ppo", (MyPPO, MyPPOOptions)),
        (NETWORKS, "thin", NetworkSpec(widths=(4,), activation="tanh")),
        (SHIFTS, "mirror", FlipObservation),
    ):
        monkeypatch.setitem(getattr(registry, "_entries", registry), name, entry)
    plugins.load([])


WORDS = [
    "agent=my_ppo",
    "optimizer=slow_adam",
    "network=thin",
    "sequence=cartpole-smoke",
    "run_dir=x",
    "device=cpu",
]


def test_they_are_chosen_and_set_like_any_other(registered):
    words = [*WORDS, "optimizer.eps=0.5", "agent.n_epochs=3"]
    check_overrides(words)
    parts = build(resolve(composed(words)))
    assert isinstance(parts.agent, MyPPO)
    assert (parts.agent.n_steps, parts.agent.n_epochs) == (16, 3)  # the tuning of cartpole is for ppo
    optimizer = parts.agent.policy.optimizer
    assert isinstance(optimizer, SlowAdam)
    assert (optimizer.defaults["betas"], optimizer.defaults["eps"]) == ((0.5, 0.6), 0.5)
    assert next(parts.agent.policy.networks()["actor"].parameters()).shape == (4, 4)
    parts.env.close()


def test_what_they_do_not_have_is_refused(registered):
    with pytest.raises(UserError, match="Did you mean 'slow_adam'"):
        check_overrides(["optimizer=slow_adm"])
    with pytest.raises(UserError, match=r"Did you mean 'optimizer\.betas'"):
        check_overrides(["optimizer=slow_adam", "optimizer.beta=3"])


def test_an_agents_numbers_may_be_tuned_by_a_sequence(registered):
    tuned = composed([*WORDS, "+sequence.tuning.my_ppo={n_steps: 64}"])
    assert tuned.agent.n_steps == 64
    assert composed(WORDS).agent.n_steps == 16


def test_they_are_explained(registered):
    assert plugins.about("optimizer", "slow_adam") == "Adam, slowly."
    assert "widths=(4,)" in plugins.about("network", "thin")


def test_a_worker_finds_the_users_folders_again_and_no_others(tmp_path, monkeypatch):
    monkeypatch.setattr(command_line, "own_folders", [])
    mine, packages = tmp_path / "mine", tmp_path / "packages"
    mine.mkdir(), packages.mkdir()
    sources = [
        SimpleNamespace(provider="main", path=str(packages)),
        SimpleNamespace(provider="command-line", path=str(mine)),
    ]
    hydra = SimpleNamespace(runtime=SimpleNamespace(config_sources=sources))
    monkeypatch.setattr(plugins.HydraConfig, "get", lambda: hydra)
    plugins.in_worker(SimpleNamespace(imports=[]))
    assert command_line.own_folders == [str(mine)]
