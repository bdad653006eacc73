"""Ids that Gymnasium takes are taken wherever an id is: module:Env-v0 and the old names of Atari games."""

import sys

import pytest

from isorl.configs import SequenceConfig, TaskConfig, UserError, imports
from isorl.envs import Sequence
from isorl.envs.sequence import modules_of

MODULE = "import gymnasium\ngymnasium.register('{0}-v0', entry_point='gymnasium.envs.classic_control:CartPoleEnv')\n"


def task_of(env, **options):
    options = {"agent_steps": 8} | options
    config = SequenceConfig(name="x", tasks=[TaskConfig(env=env, **options)])
    return Sequence.from_config(config, seed=0).tasks[0]


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module in the current folder, forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(imports, "_named", {})
    monkeypatch.setattr(imports, "_current_folder", [])
    (tmp_path / "some_envs.py").write_text(MODULE.format("Mine"))
    yield
    sys.modules.pop("some_envs", None)


def test_an_id_may_name_its_module(own_module):
    task = task_of("some_envs:Mine-v0")
    assert (task.env, task.name) == ("Mine-v0", "Mine-v0")
    with pytest.raises(UserError, match="Did you mean 'Mine-v0'"):
        task_of("some_envs:Mime-v0")
    with pytest.raises(UserError, match="no module 'som_envs'"):
        task_of("som_envs:Mine-v0")


@pytest.mark.parametrize(
    ("old", "kwargs"),
    [
        ("BreakoutNoFrameskip-v4", {"repeat_action_probability": 0.0}),
        ("BreakoutNoFrameskip-v0", {"repeat_action_probability": 0.25}),
        ("SpaceInvadersNoFrameskip-v4", {"repeat_action_probability": 0.0}),
    ],
)
def test_old_atari_ids_are_todays_games_with_their_stickiness(old, kwargs):
    task = task_of(old, agent_steps=None, frames=64)
    assert task.env == f"ALE/{old.partition('NoFrameskip')[0]}-v5"
    assert task.kwargs == kwargs
    assert task.is_atari
    assert task.agent_steps == 16
    assert task_of(old, kwargs={"repeat_action_probability": 0.1}).kwargs == {
        "repeat_action_probability": 0.1
    }


@pytest.mark.parametrize("old", ["Breakout-v0", "Breakout-v4"])
def test_random_frame_skips_are_refused(old):
    with pytest.raises(UserError, match=f"'BreakoutNoFrameskip-{old[-2:]}' or 'ALE/Breakout-v5'"):
        task_of(old)


def test_unknown_ids_are_answered_with_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'BreakoutNoFrameskip-v4'"):
        task_of("BreakotNoFrameskip-v4")
    with pytest.raises(UserError, match="Did you mean 'CartPole-v1'"):
        task_of("CartPol-v1")


def test_modules_of_a_sequence_are_found_wherever_an_id_is():
    tasks = [
        TaskConfig(env="a.b:C-v0", agent_steps=1),
        TaskConfig(env="isorl/Shifted-v0", agent_steps=1, kwargs={"env": "d:E", "shifts": [{"name": "f:g"}]}),
        TaskConfig(
            env="ALE/Pong-v5", agent_steps=1, kwargs={"url": "http://x", "file": "C:\\x", "text": "a: b"}
        ),
    ]
    assert modules_of(SequenceConfig(name="x", tasks=tasks)) == ["a.b", "d", "f"]


def test_a_mujoco_that_dm_control_does_not_know_is_refused(monkeypatch):
    mujoco = pytest.importorskip("dm_control.mujoco")

    def built(model):
        raise AttributeError("'MjModel' object has no attribute 'B_colind'")

    assert task_of("dm_control/walker-walk-v0").env == "dm_control/walker-walk-v0"
    monkeypatch.setattr(mujoco.Physics, "from_xml_string", built)
    with pytest.raises(
        UserError, match=r"has no attribute 'B_colind'. Install it with.* apart from Meta-World"
    ):
        task_of("dm_control/walker-walk-v0")
