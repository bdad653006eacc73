"""sequence=atari and sequence=env play what the words say, and their name, tasks and settings follow."""

import re

import pytest

from isorl.configs import UserError
from isorl.configs.command_line import composed, groups, resolve
from isorl.configs.played import FAMILIES


def config_of(*words):
    return resolve(composed([f"run_dir={'x'}", *words]))


def test_one_game_or_several():
    one = config_of("sequence=atari", "game=Pong", "agent_steps=5000").sequence
    assert (one.name, [(task.env, task.agent_steps) for task in one.tasks]) == (
        "atari_Pong_5000",
        [("ALE/Pong-v5", 5000)],
    )
    two = config_of("sequence=atari", "game=[Pong,Breakout]").sequence
    assert [task.env for task in two.tasks] == ["ALE/Pong-v5", "ALE/Breakout-v5"]
    assert two.name == "atari_Pong_Breakout_1000000"
    assert two.tuning["dqn"]["learning_starts"] == 20_000


def test_any_environment_with_arguments_and_wrappers():
    config = config_of("sequence=env", "env=Pendulum-v1", "kwargs={g: 5.0}", "wrappers=[FlattenObservation]")
    (task,) = config.sequence.tasks
    assert (task.env, task.kwargs, task.wrappers) == ("Pendulum-v1", {"g": 5.0}, ["FlattenObservation"])
    assert config.sequence.name == "env_Pendulum-v1_100000"
    assert config.sequence.source.endswith("Pendulum-v1")
    assert (
        config_of("sequence=env", "env=MinAtar/Breakout-v0").sequence.name == "env_MinAtar-Breakout-v0_100000"
    )


@pytest.mark.parametrize(
    ("env", "n_envs"),
    [
        ("MinAtar/Breakout-v0", 16),
        ("isorl/SlipperyAnt-v0", 1),
        ("Pendulum-v1", 8),
        ("[Ant-v5,MinAtar/Freeway-v0]", 8),
    ],
)
def test_settings_are_those_of_the_family(env, n_envs):
    assert config_of("sequence=env", f"env={env}").agent["n_envs"] == n_envs


def test_every_family_is_a_file():
    from isorl.configs.command_line import FOLDER

    files = {file.stem for file in (FOLDER / "sequence" / "family").glob("*.yaml")}
    assert set(FAMILIES) == files
    assert all(re.compile(begins) for begins in FAMILIES.values())
    assert {"atari", "env", "atari-smoke", "env-smoke"} <= set(groups()["sequence"])


def test_a_run_holds_its_tasks_not_the_words():
    assert not hasattr(config_of("sequence=atari"), "game")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sequence=nine_rooms", "game=Pong"], "'game' belongs to sequence=atari"),
        (["sequence=atari", "env=Pong"], "'env' belongs to sequence=env"),
        (["agent_steps=5"], "'agent_steps' belongs to sequence=atari and sequence=env"),
        (["sequence=env", "env=[]"], "names nothing to play"),
        (["sequence=atari", "game=3"], "'3' names nothing to play"),
        (["sequence=atari", "agent_steps=0"], "'agent_steps' is 0; it must be at least 1"),
    ],
)
def test_mistakes(words, message):
    with pytest.raises(UserError, match=message):
        config_of(*words)
