"""A run on real tasks, and what it leaves in its folder."""

import json
import math

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from isorl.agents.options import planned_updates
from isorl.experiments.run import dry_run, experiment, keys
from isorl.experiments.run.play import play
from isorl.plasticity import isometry_lambda

RUNS = {
    "ppo nine rooms": ("agent=ppo", "sequence=nine_rooms-smoke"),
    "dqn rotations": ("agent=dqn", "sequence=cartpole_rotations-smoke", "network=relu", "optimizer=adam"),
    "ppo control": ("agent=ppo", "sequence=control_cycle-smoke", "network=tanh", "optimizer=adamw"),
    "ppo atari": ("agent=ppo", "sequence=atari_switch-smoke", "agent.n_envs=4", "evaluation.episodes=1"),
    "dqn atari": ("agent=dqn", "sequence=atari_switch-smoke", "network=layer_norm", "evaluation.episodes=1"),
}


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(words, id=name, marks=[pytest.mark.slow] * (name == "dqn atari"))
        for name, words in RUNS.items()
    ],
)
def test_run_leaves_what_it_promises(run, overrides):
    summary, folder = run(*overrides)
    for name in ("config.yaml", "run.json", "metrics.jsonl", "probes.npz", "checkpoint.pt", "summary.json"):
        assert (folder / name).stat().st_size > 0, name
    assert json.loads((folder / "summary.json").read_text())["returns"] is not None

    visits = summary["returns"]
    assert [row["visit"] for row in visits] == list(range(len(visits)))
    assert sum(row["episodes"] for row in visits) > 0
    after_visit = np.array(summary["evaluation"]["after_visit"])
    assert after_visit.shape == (len(visits), len(summary["evaluation"]["tasks"]))
    assert np.isfinite(after_visit).all()

    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {"key", "value", "agent_step", "task", "visit"} == set(records[0])
    unexplained = {record["key"] for record in records if not keys.explained(record["key"])}
    assert not unexplained

    events = EventAccumulator(str(folder)).Reload()
    tags = events.Tags()
    scalars = {record["key"] for record in records if not isinstance(record["value"], list)}
    assert set(tags["scalars"]) <= scalars, "TensorBoard shows nothing that metrics.jsonl lacks"
    assert {"eval/matrix", "dashboard/returns"} <= set(tags["images"])
    assert any(tag.startswith("plasticity/") for tag in tags["histograms"])
    assert "custom_scalars__config__" in tags["tensors"]
    switches = [event.value for event in events.Scalars("task/visit")]
    assert switches == list(range(len(visits)))


def test_diagnostics_and_evaluation_leave_training_alone(run):
    _, measured = run("sequence=nine_rooms-smoke", folder="measured")
    _, bare = run(
        "sequence=nine_rooms-smoke",
        "diagnostics.every=0",
        "evaluation.episodes=0",
        "log_every=100000",
        folder="bare",
    )
    with_, without = (torch.load(folder / "checkpoint.pt", weights_only=True) for folder in (measured, bare))
    for name, value in with_["policy"].items():
        assert torch.equal(value, without["policy"][name]), name
    assert torch.equal(with_["random"]["torch"], without["random"]["torch"])


def sb3_options(configured, *overrides):
    """The agent's options as stable-baselines3 names them."""
    options = dict(configured(*overrides, "run_dir=unused").agent)
    for ours in ("name", "n_envs", "learning_rate_final", "exact", "precision", "compile"):
        del options[ours]
    return options


def test_one_task_without_mechanisms_is_sb3_ppo(run, configured):
    """The whole machinery around the agent changes nothing: the same weights as a plain SB3 script."""
    words = ("sequence=cartpole-smoke", "network=tanh", "optimizer=adam", "seed=5", "agent.exact=true")
    _, folder = run(*words)
    env = make_vec_env("CartPole-v1", 8)
    theirs = PPO("MlpPolicy", env, seed=5, device="cpu", **sb3_options(configured, *words)).learn(2048)
    assert_same(folder, theirs)


def test_one_task_without_mechanisms_is_sb3_dqn(run, configured):
    words = (
        "agent=dqn",
        "sequence=cartpole-smoke",
        "network=relu",
        "optimizer=adam",
        "seed=5",
        "agent.exact=true",
    )
    _, folder = run(*words)
    env = gymnasium.make("CartPole-v1")
    theirs = DQN("MlpPolicy", env, seed=5, device="cpu", **sb3_options(configured, *words)).learn(2048)
    assert_same(folder, theirs)


def assert_same(folder, theirs):
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)["policy"]
    ours, expected = list(saved.values()), list(theirs.policy.state_dict().values())
    assert len(ours) == len(expected)
    for a, b in zip(ours, expected, strict=True):
        assert torch.equal(a, b)


def test_same_seed_same_run_and_other_seed_another(run):
    first, _ = run("sequence=catch_permuted-smoke", folder="a")
    again, _ = run("sequence=catch_permuted-smoke", folder="b")
    other, _ = run("sequence=catch_permuted-smoke", "seed=1", folder="c")
    assert repr(first["returns"]) == repr(again["returns"])  # NaN is NaN here
    assert first["evaluation"] == again["evaluation"]
    assert first["returns"] != other["returns"]


@pytest.mark.parametrize("network", ["relu", "tanh", "layer_norm", "aei"])
@pytest.mark.parametrize("agent", ["ppo", "dqn"])
def test_every_network_trains(run, agent, network):
    summary, folder = run(f"agent={agent}", f"network={network}", "sequence=cartpole-smoke")
    assert math.isfinite(summary["returns"][0]["mean"])
    for value in torch.load(folder / "checkpoint.pt", weights_only=True)["policy"].values():
        assert torch.isfinite(value).all()


def test_normalisation_is_saved_and_used(run):
    _, folder = run("sequence=cartpole-smoke", "normalize.observations=true", "normalize.rewards=true")
    state = torch.load(folder / "checkpoint.pt", weights_only=True)["normalizer"]
    assert state["observations"]["count"] > 2000
    assert state["observations"]["mean"].shape == (4,)


def test_play_records_a_video_of_each_task(run):
    _, folder = run("sequence=control_cycle-smoke", "agent=dqn")
    files = play(str(folder))
    assert len(files) == 3
    for file in files:
        assert file.stat().st_size > 1_000


@pytest.mark.slow
def test_play_draws_atari(run):
    _, folder = run("sequence=atari_switch-smoke", "evaluation.episodes=0", "diagnostics.every=0")
    assert all(file.stat().st_size > 1_000 for file in play(str(folder)))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["method=[redo]"],
            "'redo' does nothing in this run: it first acts at update 1,000, of 512 planned ones",
        ),
        (["method=[head_reset]", "sequence.tasks.0.count=1"], "it first acts at task switch 1, of 0"),
        (["method=[redo]", "method.redo.every=512"], None),
    ],
)
def test_a_run_too_short_for_its_method_says_so(run, overrides, said):
    _, folder = run("agent=ppo", "sequence=nine_rooms-smoke", "network=relu", *overrides)
    log = (folder / "run.log").read_text()
    assert said in log if said else "does nothing in this run" not in log
    (method,) = json.loads((folder / "summary.json").read_text())["methods"].values()
    informed = overrides[0] == "method=[head_reset]"
    assert method == {"boundary": "informed" if informed else "agnostic", "acts": not said}


def test_a_dry_run_says_who_is_told_of_switches_and_who_never_acts(configured, capsys, monkeypatch):
    monkeypatch.setattr(dry_run, "TRIAL_SECONDS", 0.0)
    words = ("sequence=nine_rooms-smoke", "network=relu", "optimizer=adam", "method=[redo,fire]")
    dry_run.show(configured(*words, "run_dir=x"))
    said = " ".join(capsys.readouterr().out.split())
    assert "redo (agnostic, never acts in this run), fire (informed)" in said


def test_a_half_life_may_be_a_share_of_a_visit(configured):
    words = ("sequence=nine_rooms-short", "optimizer=adamo", "agent.learning_rate=1e-3", "run_dir=x")
    config = configured(*words, "optimizer.iso_half_life=0.5")
    parts = experiment.build(config)
    updates = planned_updates(config, parts.sequence) / 5
    assert parts.agent.policy.optimizer.half_life() == pytest.approx(updates / 2)
    message, warned = experiment.isometry_step(parts.agent.policy.optimizer, 1_000)
    assert message.startswith(
        f"AdamO halves a deviation from isometry in {updates / 2:,.0f} updates; 1,000 are"
    )
    assert message.endswith(f"(iso_lambda {isometry_lambda(updates / 2, 1e-3, 1.0, 4):.3g})")
    assert "cannot act" in warned[0]


PLANNED = {
    "ppo": ("agent=ppo", "agent.n_epochs=2"),
    "dqn": ("agent=dqn", "agent.buffer_size=400", "agent.learning_starts=300", "agent.train_freq=3"),
    "dqn that keeps its replay": (
        "agent=dqn", "agent.buffer_size=400", "agent.learning_starts=900", "switch.replay=keep"
    ),
    "dqn that never learns": ("agent=dqn", "agent.buffer_size=400", "agent.learning_starts=800"),
}  # fmt: skip


@pytest.mark.parametrize("words", PLANNED.values(), ids=PLANNED)
def test_as_many_updates_are_made_as_were_planned(configured, words):
    """Visits of 800 steps are no multiple of a rollout, and every one fills a cleared replay anew."""
    steps = (
        "sequence=nine_rooms-smoke",
        "sequence.tasks.0.agent_steps=800",
        "sequence.tasks.0.count=3",
        "run_dir=x",
    )
    config = configured(
        *steps, *words, "network=relu", "optimizer=adam", "method=[redo]", "diagnostics.every=0"
    )
    parts = experiment.build(config)
    parts.agent.learn(parts.sequence.agent_steps)
    assert parts.agent.methods.by_name["redo"]._updates == planned_updates(config, parts.sequence)
    assert (words is PLANNED["dqn that never learns"]) == (planned_updates(config, parts.sequence) == 0)


def test_a_family_gives_lambda_unless_a_half_life_is_given(configured):
    words = ("sequence=nine_rooms-short", "optimizer=adamo", "run_dir=x")
    by_family, by_user = (
        configured(*words).optimizer,
        configured(*words, "optimizer.iso_half_life=300").optimizer,
    )
    assert (by_family["iso_lambda"], by_family["iso_half_life"]) == (0.02, None)
    assert (by_user["iso_lambda"], by_user["iso_half_life"]) == (None, 300)


def test_what_a_method_decides_is_in_the_log_and_in_every_record(run):
    loop = [
        f"method.adaptive_isometry.{option}"
        for option in ("every=4", "decline=1.01", "recovery=1.0", "samples=8")
    ]
    _, folder = run("sequence=nine_rooms-smoke", "method=[adaptive_isometry]", *loop)
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    strengths = [r["value"] for r in records if r["key"] == "method/adaptive_isometry/strength/adamo"]
    assert len(strengths) > 10
    assert max(strengths) > strengths[0]
    assert all(keys.explained(r["key"]) for r in records)
    raised = [line for line in (folder / "run.log").read_text().splitlines() if "strength of adamo" in line]
    changes = sum(after != before for before, after in zip([1.0, *strengths], strengths, strict=False))
    assert len(raised) == changes
    assert "plasticity declines" in "".join(raised)
    shown = EventAccumulator(str(folder)).Reload().Scalars("method/adaptive_isometry/strength/adamo")
    assert [event.value for event in shown] == pytest.approx(strengths)
