"""The command line, as a user types it."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from isorl.train import main

ROOT = Path(__file__).parent.parent


def train(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "train.py", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


REFUSED = {
    "unknown agent": (["agent=dqnn"], "Did you mean 'dqn'?"),
    "unknown sequence": (["sequence=nine_room"], "Did you mean 'nine_rooms'?"),
    "unknown network": (["network=aie"], "Did you mean 'aei'?"),
    "unknown optimizer": (["optimizer=adamoo"], "Did you mean 'adamo'?"),
    "unknown method": (["method=[l2_int]"], "Did you mean 'l2_init'?"),
    "unknown key": (["sed=3"], "Did you mean 'seed'?"),
    "unknown agent key": (["agent.n_step=4"], "Did you mean 'agent.n_steps'?"),
    "added unknown key": (["+agent.n_step=4"], "Did you mean 'n_steps'?"),
    "added unknown nested key": (["+switch.replai=keep"], "Did you mean 'replay'?"),
    "word without =": (["seed"], "not KEY=VALUE"),
    "malformed": (["seed=[1"], "cannot be read: a ']' is missing"),
    "wrong type": (["seed=abc"], "'seed'"),
    "wrong agent type": (["agent.n_steps=many"], "'agent.n_steps'"),
    "negative steps": (["agent.n_steps=-4"], "'agent.n_steps' is -4"),
    "too few betas": (["optimizer.betas=[0.9]"], "two numbers"),
    "betas beyond one": (["optimizer.betas=[0.9,1.0]"], "two numbers"),
    "a bound that is no number": (["++agent.clip_range_vf=nan"], "above 0"),
    "exact and compiled": (["agent.exact=true", "agent.compile=true"], "not compiled"),
    "a GPU's precision": (["agent.precision=tfloat32", "device=cpu"], "GPU"),
    "negative seed": (["seed=-1"], "'seed' is -1"),
    "negative task length": (
        ["sequence=cartpole", "sequence.tasks=[{env: CartPole-v1, agent_steps: -5}]"],
        "-5",
    ),
    "no task length": (["sequence.tasks=[{env: CartPole-v1}]"], "needs a length"),
    "unknown environment": (
        ["sequence.tasks=[{env: CartPol-v1, agent_steps: 9}]"],
        "Did you mean 'CartPole-v1'?",
    ),
    "unknown game": (
        ["sequence.tasks=[{env: ALE/Breakot-v5, frames: 9}]"],
        "Did you mean 'ALE/Breakout-v5'?",
    ),
    "unknown shift": (
        ["sequence.tasks=[{env: CartPole-v1, agent_steps: 9, shifts: [{name: rotate}]}]"],
        "rotate_observation",
    ),
    "unknown environment argument": (
        ["sequence.tasks=[{env: CartPole-v1, agent_steps: 9, kwargs: {x: 1}}]"],
        "'x'. It takes sutton_barto_reward",
    ),
    "several values of one run": (["seed=0,1"], "make a grid: python train.py -m seed=0,1"),
    "an option of another optimizer": (
        ["optimizer=adam", "optimizer.iso_lambda=0.1"],
        "belongs to optimizer=adamo",
    ),
    "a benchmark without +": (["-m", "benchmark=demo"], "write +benchmark=demo"),
    "unknown switch option": (["switch.replay=cleer"], "Did you mean 'clear'?"),
    "dqn on continuous actions": (
        ["agent=dqn", "sequence.tasks=[{env: Pendulum-v1, agent_steps: 9}]"],
        "Use agent=ppo",
    ),
    "odd width for MaxMin": (["network.widths=[64,63]"], "63"),
    "unknown activation": (["network.activation=rely"], "Did you mean 'relu'?"),
    "minibatch above rollout": (["agent.batch_size=100000"], "fewer than"),
    "negative isometry": (["optimizer.iso_lambda=-1"], "iso_lambda"),
    "two strengths of isometry": (
        ["optimizer.iso_lambda=1", "optimizer.iso_half_life=300"],
        "Leave one out",
    ),
    "a half-life below iso_every": (["optimizer.iso_half_life=2"], "at least iso_every=4"),
    "negative method strength": (["method=[l2_init]", "method.l2_init.strength=-1"], "strength"),
    "no such device": (["device=gpu"], "There is no device 'gpu'"),
    "no number of a device": (["device=cpu:x"], "torch cannot use 'device=cpu:x'"),
    "a rate that ends below 0": (
        ["agent.learning_rate_final=-1e-3"],
        "'agent.learning_rate_final' is -0.001",
    ),
    "nothing to resume": (["resume=/nowhere"], "does not exist"),
    "nothing to play": (["play=docs"], "is not the folder of a run"),
    "benchmark without -m": (["+benchmark=control_quick"], "train.py -m +benchmark=NAME"),
    "unknown benchmark": (["-m", "+benchmark=control_quik"], "Did you mean 'control_quick'?"),
    "unknown launcher": (["-m", "seed=0,1", "hydra/launcher=heer"], "Did you mean 'here'?"),
    "unknown key in a grid": (["-m", "sed=0,1"], "Did you mean 'seed'?"),
    "bad value in one cell of a grid": (["-m", "agent.batch_size=64,100000"], "fewer than"),
    "untuned settings": (["-m", "+benchmark=control"], "benchmark.stage=tune"),
    "resume with another value": (["resume=runs", "seed=3"], "cannot be combined with 'seed'"),
}


@pytest.mark.parametrize(("words", "expected"), REFUSED.values(), ids=REFUSED)
def test_mistake_is_answered(words, expected, tmp_path, monkeypatch, capfd):
    """One message with the nearest valid name, exit code 2, nothing written."""
    folder = tmp_path / "run"
    alone = words[0].startswith(("resume", "play"))
    words = [*words, *([] if alone else [f"run_dir={folder}"])]
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    GlobalHydra.instance().clear()
    with pytest.raises(SystemExit) as ended:
        main(words)
    answer = capfd.readouterr()
    assert ended.value.code == 2, answer.err
    assert expected in " ".join(answer.err.split()), "messages are wrapped"
    assert answer.err.startswith("train.py: ")
    assert answer.out == ""
    assert not folder.exists()


@pytest.mark.parametrize("kind", ["unknown agent", "odd width for MaxMin"])
def test_mistake_ends_the_process_without_a_traceback(kind, tmp_path):
    words, expected = REFUSED[kind]
    answer = train(*words, f"run_dir={tmp_path / 'run'}")
    assert answer.returncode == 2
    assert answer.stderr.startswith("train.py: ")
    assert expected in " ".join(answer.stderr.split())
    assert "Traceback" not in answer.stderr


def test_folder_that_is_not_empty_is_kept(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    answer = train(f"run_dir={tmp_path}", "sequence=nine_rooms-smoke")
    assert answer.returncode == 2
    assert "never writes over another" in " ".join(answer.stderr.split())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_run_ends_in_a_table_and_the_tensorboard_command(tmp_path):
    answer = train("sequence=nine_rooms-smoke", f"run_dir={tmp_path / 'run'}", "evaluation.episodes=1")
    assert answer.returncode == 0, answer.stderr
    assert "goal-1" in answer.stdout
    assert f"tensorboard --logdir {tmp_path / 'run'}" in answer.stdout
    assert "visit 1" not in answer.stderr, "no progress bar where there is no terminal"


def test_help_explains_and_is_quick():
    begin = time.monotonic()
    answer = train("--help")
    assert time.monotonic() - begin < 10  # a guard against importing torch; about half a second
    assert answer.returncode == 0
    for word in ("agent=dqn sequence=cartpole_rotations", "nine_rooms-short", "resume=RUN_DIR", "layer_norm"):
        assert word in answer.stdout


def test_cfg_shows_resolved_values():
    answer = train(
        "--cfg", "job", "agent=dqn", "sequence=atari_switch", "method=[shrink_and_perturb,l2_init]"
    )
    assert answer.returncode == 0
    assert "buffer_size: 100000" in answer.stdout
    assert "${tuned" not in answer.stdout
    assert answer.stdout.index("shrink_and_perturb") < answer.stdout.index("l2_init:"), (
        "methods keep their order"
    )


def test_dry_run_prints_the_schedule_and_writes_nothing(tmp_path):
    answer = train("dry_run=true", "sequence=atari_switch", "agent=dqn", f"run_dir={tmp_path / 'run'}")
    assert answer.returncode == 0, answer.stderr
    for fact in ("37,500,000", "(4, 84, 84)", "Discrete(18)", "MiB"):
        assert fact in answer.stdout
    assert not (tmp_path / "run").exists()


def test_sweep_runs_every_combination(tmp_path):
    words = ["-m", "seed=0,1", "sequence=nine_rooms-smoke", "evaluation.episodes=0", "diagnostics.every=0"]
    answer = train(*words, f"run_dir={tmp_path}/seed-${{seed}}", f"hydra.sweep.dir={tmp_path}/sweep")
    assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "seed-0" / "summary.json").exists()
    assert (tmp_path / "seed-1" / "summary.json").exists()


def test_a_warning_of_a_library_is_a_message(tmp_path):
    answer = train(
        "sequence=cartpole-smoke", "agent.n_steps=100", "evaluation.episodes=0", f"run_dir={tmp_path / 'run'}"
    )
    assert answer.returncode == 0
    assert "Warning: You have specified a mini-batch size of 256" in " ".join(answer.stderr.split())
    assert "warnings.warn" not in answer.stderr
    assert ".py:" not in answer.stderr
    assert all(len(line) <= 80 for line in answer.stderr.splitlines() if str(tmp_path) not in line)
