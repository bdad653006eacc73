"""Random legal specifications: each runs for 50 steps, or is refused by a message that names what does not fit."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isorl.configs import SequenceConfig, UserError, typed
from isorl.envs import Sequence, SwitchingVecEnv
from isorl.envs.shifts import SHIFTS

ENVS = {
    "toy/Counter-v0": {
        "base": st.integers(0, 5),
        "size": st.integers(2, 4),
        "actions": st.integers(2, 5),
        "speed": st.floats(0, 2),
    },
    "toy/Screen-v0": {
        "shape": st.sampled_from(
            [[3, 40, 50], [3, 36, 36], [1, 40, 50], [40, 36, 3], [10, 10, 4], [10, 10, 7], [9, 9, 9]]
        ),
        "dtype": st.sampled_from(["uint8", "bool", "float32"]),
    },
    "toy/Reach-v0": {"size": st.integers(1, 3), "high": st.sampled_from([1.0, 2.0])},
    "CartPole-v1": {"sutton_barto_reward": st.booleans(), "max_episode_steps": st.integers(1, 20)},
    "Pendulum-v1": {"g": st.floats(1, 20) | st.just({"uniform": [5.0, 10.0]})},
    "isorl/NineRooms-v0": {"goal_seed": st.sampled_from(["task_seed", "sequence_seed", 3])},
    "isorl/Catch-v0": {"size": st.integers(3, 9)},
    "isorl/Rain-v0": {"size": st.integers(3, 5)},
    "FrozenLake-v1": {},  # its observation is a number: refused unless it is flattened
}
SHIFT = st.sampled_from(sorted(SHIFTS)).flatmap(
    lambda name: st.fixed_dictionaries(
        {"name": st.just(name)},
        optional={
            "seed": st.sampled_from([0, 7, "task_seed"]),
            "std": st.floats(0, 3),
            "direction": st.sampled_from(["horizontal", "vertical"]),
        },
    )
)
LENGTH = st.one_of(
    st.fixed_dictionaries({"agent_steps": st.integers(1, 30)}),
    st.fixed_dictionaries({"frames": st.integers(1, 30)}),
    st.fixed_dictionaries({"agent_steps": st.integers(5, 30), "episodes": st.integers(1, 3)}),
    st.fixed_dictionaries(
        {
            "agent_steps": st.integers(5, 30),
            "return_threshold": st.floats(-5, 5),
            "return_window": st.integers(1, 3),
        }
    ),
)


@st.composite
def tasks(draw):
    env = draw(st.sampled_from(sorted(ENVS)))
    task = {"env": env, **draw(LENGTH), "count": draw(st.integers(1, 2))}
    task["kwargs"] = draw(st.fixed_dictionaries({}, optional=ENVS[env]))
    task["shifts"] = draw(st.lists(SHIFT, max_size=2))
    task["wrappers"] = draw(st.sampled_from([[], [], ["FlattenObservation"], [{"name": "ClipReward"}]]))
    task["channels"] = draw(st.sampled_from([None, None, "first", "last"]))
    if isinstance(task["kwargs"].get("speed"), float):
        task["drift"] = {"speed": draw(st.floats(0, 2))}
    return task


SEQUENCES = st.fixed_dictionaries(
    {"name": st.just("random"), "tasks": st.lists(tasks(), min_size=1, max_size=3)},
    optional={
        "cycles": st.integers(1, 2),
        "order": st.sampled_from(["fixed", "shuffled", "sampled"]),
        "switch": st.sampled_from(["step", "episode_end"]),
        "announce": st.booleans(),
        "seed": st.integers(0, 3),
    },
)


def make_or_refuse(specification, n_envs):
    """The environment, or the message of its refusal."""
    try:
        config = typed(SequenceConfig, specification)
        return SwitchingVecEnv(Sequence.from_config(config, 0, n_envs), n_envs, 0)
    except UserError as refusal:
        return str(refusal)


def check_run_or_refusal(specification, n_envs):
    """Whether it ran as it must; a refusal must name a task, a shift or a key of the specification, in one line."""
    env = make_or_refuse(specification, n_envs)
    if isinstance(env, str):
        names = {task["env"].split("/")[-1] for task in specification["tasks"]} | set(SHIFTS) | {"sequence."}
        assert any(name in env for name in names), env
        assert "\n" not in env
        return False
    env.action_space.seed(0)
    env.reset()
    for _ in range(50):
        actions = np.stack([env.action_space.sample() for _ in range(n_envs)])
        observations, rewards, dones, infos = env.step(actions)
        assert all(env.observation_space.contains(row) for row in observations)
        assert rewards.shape == dones.shape == (n_envs,)
        assert all(("terminal_observation" in info) == done for info, done in zip(infos, dones, strict=True))
    assert env.agent_steps == 50 * n_envs
    env.close()
    return True


SLOW_IS_FINE = dict(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@given(SEQUENCES, st.integers(1, 3))
@settings(max_examples=60, **SLOW_IS_FINE)
def test_random_specifications(specification, n_envs):
    check_run_or_refusal(specification, n_envs)


@pytest.mark.slow
@given(SEQUENCES, st.integers(1, 3))
@settings(max_examples=1_000, **SLOW_IS_FINE)
def test_a_thousand_random_specifications(specification, n_envs):
    check_run_or_refusal(specification, n_envs)


def test_both_ends_are_reached():
    """The property above is not empty: some specifications run and some are refused."""
    task = {"env": "toy/Counter-v0", "agent_steps": 5}
    assert check_run_or_refusal({"name": "runs", "tasks": [task]}, 2)
    assert not check_run_or_refusal({"name": "mixed", "tasks": [task, {**task, "env": "toy/Screen-v0"}]}, 2)
