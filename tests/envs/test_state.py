"""Saved in the middle of an episode and restored elsewhere, every family goes on step for step as if nothing was."""

import io

import numpy as np
import pytest
import torch

from isorl.configs import SequenceConfig, TaskConfig
from isorl.envs import Sequence, SwitchingVecEnv, atari
from isorl.experiments.run.checkpoint import _arrays, _tensors


def task(env, agent_steps, **options):
    return TaskConfig(env, agent_steps=agent_steps, **options)


NOISE = {"name": "noisy_observation", "seed": 1, "std": 0.1}
STICKY = {"name": "StickyAction", "repeat_action_probability": 0.5}
FLAT_IMAGE = ["minigrid:ImgObsWrapper", "FlattenObservation"]
DMC = ("walker-run", "quadruped-walk")  # different observations and actions: filled up
ARM = ("hammer", "window-close")
FAMILIES = {
    "classic control": [task("CartPole-v1", 200), task("Acrobot-v1", 200)],
    "time limit": [task("Pendulum-v1", 200, kwargs={"max_episode_steps": 17})],
    "box2d": [task("LunarLander-v3", 400, kwargs={"enable_wind": True})],
    "box2d walker": [task("BipedalWalker-v3", 400)],
    "mujoco": [task("Hopper-v5", 400), task("HalfCheetah-v5", 400)],
    "slippery ant": [task("isorl/SlipperyAnt-v0", 100, kwargs={"friction": 0.1})],
    "rain": [task("isorl/Rain-v0", 300), task("isorl/Rain-v0", 300)],
    "catch": [task("isorl/Catch-v0", 150), task("isorl/Catch-v0", 150)],
    "forager": [task("isorl/Forager-v0", 300, kwargs={"window": 7}), task("isorl/Forager-v0", 300)],
    "nine rooms": [task("isorl/NineRooms-v0", 300)],
    "noise": [task("CartPole-v1", 200, shifts=[NOISE])],
    "wrapper": [task("CartPole-v1", 200, wrappers=[STICKY])],
    "drift": [task("LunarLander-v3", 900, kwargs={"gravity": -10.0}, drift={"gravity": -4.0})],
    "minatar": [
        task(f"MinAtar/{game}-v0", 300) for game in ("Seaquest", "Asterix", "SpaceInvaders", "Freeway")
    ],
    "minatar wrapper": [task("MinAtar/Breakout-v1", 300, wrappers=["FlattenObservation"])],
    "minatar drift": [
        task(
            "MinAtar/Breakout-v0", 900, kwargs={"sticky_action_prob": 0.0}, drift={"sticky_action_prob": 1.0}
        )
    ],
    "dm_control": [task(f"dm_control/{name}-v0", 90, wrappers=["FlattenObservation"]) for name in DMC],
    "metaworld": [task(f"isorl/MetaWorld-{name}-v3", 90, kwargs={"max_episode_steps": 25}) for name in ARM],
    "atari": [task("ALE/Breakout-v5", 500), task("ALE/Pong-v5", 500)],
    "atari modes": [task("ALE/SpaceInvaders-v5", 900, kwargs={"mode": 3})],
    "minigrid": [task("MiniGrid-MultiRoom-N2-S4-v0", 200, wrappers=FLAT_IMAGE)],
}


def make(tasks, n_envs=3, **options):
    config = SequenceConfig("test", tasks, **options)
    return SwitchingVecEnv(Sequence.from_config(config, 0, n_envs), n_envs, 7)


def through_a_file(state):
    """As in a checkpoint: tensors and plain values, opened without pickle's powers."""
    file = io.BytesIO()
    torch.save(_tensors(state), file)
    file.seek(0)
    return _arrays(torch.load(file, weights_only=True))


def actions_for(env, steps):
    env.action_space.seed(3)
    return [np.stack([env.action_space.sample() for _ in range(env.num_envs)]) for _ in range(steps)]


def assert_same_steps(one, other, actions):
    for action in actions:
        a, b = one.step(action), other.step(action)
        for left, right in zip(a[:3], b[:3], strict=True):
            np.testing.assert_array_equal(left, right)
        for info, expected in zip(a[3], b[3], strict=True):
            assert info.keys() == expected.keys()
            assert info.get("episode") == expected.get("episode")
            if "terminal_observation" in info:
                np.testing.assert_array_equal(info["terminal_observation"], expected["terminal_observation"])


@pytest.mark.parametrize("family", FAMILIES)
def test_restored_equals_continued(family):
    """Saved at a step where the copies are at different points of their episodes; then across ends and switches."""
    if (needed := family.split()[0]) in ("minatar", "dm_control", "metaworld"):
        pytest.importorskip(needed)
    tasks = FAMILIES[family]
    env, restored = make(tasks, cycles=2), make(tasks, cycles=2)
    before = 150 if "atari" in family else 60
    env.reset()
    restored.reset()
    actions = actions_for(env, 2 * before + 60)
    for action in actions[:before]:
        env.step(action)
    restored.load_state_dict(through_a_file(env.state_dict()))
    assert_same_steps(env, restored, actions[before:])
    env.close()
    restored.close()


@pytest.mark.parametrize("moment", [0, 1, 49, 50, 51])
def test_around_a_switch(moment):
    tasks = [
        TaskConfig("CartPole-v1", agent_steps=100, episodes=30),
        TaskConfig("Acrobot-v1", agent_steps=100),
    ]
    env, restored = make(tasks, n_envs=2, announce=True), make(tasks, n_envs=2, announce=True)
    env.reset()
    actions = actions_for(env, 150)
    for action in actions[:moment]:
        env.step(action)
    restored.load_state_dict(through_a_file(env.state_dict()))
    assert restored.visit == env.visit
    assert_same_steps(env, restored, actions[moment:])


def test_native_atari_after_copies_were_seeded_anew(monkeypatch):
    """With a short interval the copies are seeded anew at different times, before and after the save."""
    monkeypatch.setattr(atari, "RESEED_EVERY", 60)
    breakout = [task("ALE/Breakout-v5", 100_000)]
    env, restored = make(breakout), make(breakout)
    env.reset()
    actions = actions_for(env, 1_000)
    for action in actions[:500]:
        env.step(action)
    state = env.state_dict()
    replayed = state["task"]["env"]
    assert len(set(replayed["starts"])) == 3
    assert len(replayed["actions"]) < 500
    restored.load_state_dict(through_a_file(state))
    assert_same_steps(env, restored, actions[500:])
    env.close()
    restored.close()


def test_saving_changes_nothing():
    env, undisturbed = make(FAMILIES["box2d"]), make(FAMILIES["box2d"])
    env.reset()
    undisturbed.reset()
    for action in actions_for(env, 100):
        env.state_dict()
        assert_same_steps(env, undisturbed, [action])
