import itertools
import math

import pytest

from isorl.configs import SequenceConfig, TaskConfig, UserError, typed
from isorl.envs import Sequence, SwitchingVecEnv

COUNTER = "toy/Counter-v0"


def sequence(*tasks, seed=0, n_envs=1, **options):
    return Sequence.from_config(SequenceConfig("test", list(tasks), **options), seed, n_envs)


def names(made):
    return [visit.task.name for visit in made.visits]


def three(steps=10):
    return [TaskConfig(COUNTER, name=name, agent_steps=steps) for name in "abc"]


def test_visits_follow_each_other():
    made = sequence(*three(), cycles=2, n_envs=4)
    assert names(made) == list("abcabc")
    assert [(visit.start, visit.end) for visit in made.visits[:3]] == [(0, 12), (12, 24), (24, 36)]
    assert made.agent_steps == 72


def test_frames_are_converted_once():
    made = sequence(TaskConfig("ALE/Pong-v5", frames=1001), TaskConfig(COUNTER, frames=7))
    assert [task.agent_steps for task in made.tasks] == [251, 7]
    skipping = sequence(TaskConfig("ALE/Pong-v5", frames=1000, kwargs={"frameskip": 5}))
    assert skipping.tasks[0].agent_steps == 200


def test_orders():
    shuffled = names(sequence(*three(), order="shuffled", cycles=20))
    assert all(sorted(shuffled[start : start + 3]) == list("abc") for start in range(0, 60, 3))
    assert len({tuple(shuffled[start : start + 3]) for start in range(0, 60, 3)}) == 6
    sampled = names(sequence(*three(), order="sampled", cycles=20))
    assert len(sampled) == 60
    assert all(one != other for one, other in itertools.pairwise(sampled))
    assert set(sampled) == set("abc")
    for order in ("shuffled", "sampled"):
        again = [names(sequence(*three(), order=order, cycles=5, seed=seed)) for seed in (1, 1, 2)]
        assert again[0] == again[1] != again[2]


def test_draws_are_filled_in_once_per_task():
    entry = TaskConfig(
        COUNTER,
        agent_steps=10,
        count=50,
        kwargs={
            "seed": "task_seed",
            "shared": "sequence_seed",
            "mode": "task_index",
            "friction": {"log_uniform": [0.02, 2.0]},
            "wind": {"log_uniform": [0.02, 2.0]},
            "side": {"choice": ["left", "right"]},
            "plain": {"normal": "not a draw", "std": 1},
        },
    )
    tasks = sequence(TaskConfig(COUNTER, agent_steps=1), entry, seed=4).tasks[1:]
    values = {key: [task.kwargs[key] for task in tasks] for key in entry.kwargs}
    assert len(set(values["seed"])) == 50
    assert set(values["shared"]) == {4}
    assert values["mode"] == list(range(50))
    assert all(0.02 <= friction <= 2 for friction in values["friction"])
    assert 15 < sum(math.log(friction) < math.log(0.2) for friction in values["friction"]) < 35
    assert values["friction"] != values["wind"]
    assert set(values["side"]) == {"left", "right"}
    assert values["plain"][0] == {"normal": "not a draw", "std": 1}
    again = sequence(TaskConfig(COUNTER, agent_steps=1), entry, seed=4).tasks[1:]
    assert again == tasks
    assert sequence(entry, seed=5).tasks[0].kwargs["friction"] != values["friction"][0]


def test_the_sequences_own_seed_wins():
    entry = TaskConfig(COUNTER, agent_steps=1, kwargs={"seed": "task_seed"})
    one, other = (sequence(entry, seed=run_seed) for run_seed in (1, 2))
    assert one.tasks != other.tasks
    config = SequenceConfig("test", [entry], seed=9)
    assert Sequence.from_config(config, 1).tasks == Sequence.from_config(config, 2).tasks


def test_names_stay_apart():
    made = sequence(TaskConfig(COUNTER, agent_steps=1), TaskConfig(COUNTER, agent_steps=1))
    assert [task.name for task in made.tasks] == ["Counter-v0-0", "Counter-v0-1"]


@pytest.mark.parametrize(
    ("given", "made"),
    [
        (["A", "B", "A", "A-2"], ["A-0", "B", "A-2-2", "A-2"]),
        (["A", "A", "A-0", "A-0"], ["A-0-0", "A-1", "A-0-2", "A-0-3"]),
        (["A-1", "A", "A"], ["A-1", "A-1-1", "A-2"]),
    ],
)
def test_numbered_names_meet_no_other(given, made):
    tasks = sequence(*(TaskConfig(COUNTER, name=name, agent_steps=1) for name in given)).tasks
    assert [task.name for task in tasks] == made


def test_evaluation_arguments():
    entry = TaskConfig(
        COUNTER, agent_steps=1, kwargs={"speed": 1.0, "base": 3}, drift={"speed": 2.0}, evaluation={"base": 4}
    )
    task = sequence(entry).tasks[0]
    assert task.for_evaluation().kwargs == {"speed": 2.0, "base": 4}
    assert task.for_evaluation().drift == {}


TASK = {"env": COUNTER, "agent_steps": 5}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"tasks": []}, "no tasks"),
        ({"tasks": [{"env": COUNTER}]}, "'agent_steps' or 'frames'"),
        ({"tasks": [{**TASK, "frames": 3}]}, "not both"),
        ({"tasks": [{**TASK, "agent_steps": 0}]}, "'agent_steps' is 0"),
        ({"tasks": [{**TASK, "count": 0}]}, "'count' is 0"),
        (
            {"tasks": [{**TASK, "episodes": 2, "return_threshold": 1.0}]},
            "'episodes' or by 'return_threshold'",
        ),
        ({"tasks": [{**TASK, "lenght": 3}]}, "lenght"),
        ({"tasks": [{**TASK, "env": "CartPole-v9"}]}, "CartPole-v9.*Did you mean 'CartPole-v1'"),
        ({"tasks": [{**TASK, "env": "ALE/Pongg-v5"}]}, "Did you mean 'ALE/Pong-v5'"),
        ({"tasks": [TASK], "cycles": 0}, "sequence.cycles"),
        ({"tasks": [TASK], "order": "random"}, "sequence.order"),
        ({"tasks": [TASK], "order": "sampled"}, "at least two tasks"),
        ({"tasks": [TASK], "switch": "now"}, "sequence.switch"),
        ({"tasks": [{**TASK, "kwargs": {"bace": 3}}]}, "bace"),
        ({"tasks": [{**TASK, "kwargs": {"base": {"log_uniform": [0, 1]}}}]}, "base.*log_uniform"),
        (
            {"tasks": [{**TASK, "kwargs": {"base": {"uniform": [5]}}}]},
            r"base.*\[5\].* it takes a list of low, high",
        ),
        ({"tasks": [{**TASK, "kwargs": {"base": {"choice": 5}}}]}, "it takes a list of values"),
        ({"tasks": [{**TASK, "kwargs": [1, 2]}]}, r"'tasks\[0\]\.kwargs' is a list, \[1, 2\], .* KEY: VALUE"),
        ({"tasks": {"first": TASK}}, "'tasks' holds options, .*, where a list was expected"),
        ({"tasks": [{**TASK, "shifts": {"name": "x"}}]}, r"'tasks\[0\]\.shifts' holds options"),
        ({"tasks": [{**TASK, "drift": {"speed": 2.0}}]}, "drift.*speed"),
        ({"tasks": [{**TASK, "wrappers": ["FlatenObservation"]}]}, "Did you mean 'FlattenObservation'"),
        ({"tasks": [{**TASK, "wrappers": ["os:system"]}]}, "os"),
        ({"tasks": [{**TASK, "wrappers": ["NormalizeObservation"]}]}, "Use normalize.observations=true"),
        (
            {"tasks": [{**TASK, "wrappers": ["NormalizeReward", "FlattenObservation"]}]},
            "Use normalize.rewards=true",
        ),
        ({"tasks": [{**TASK, "shifts": [{"name": "rotate"}]}]}, "There is no shift 'rotate'"),
        ({"tasks": [{**TASK, "evaluation": {"size": 9}}]}, "other spaces when it is evaluated"),
        ({"tasks": [TASK, {"env": "toy/Reach-v0", "agent_steps": 5}]}, "discrete and continuous"),
    ],
)
def test_what_cannot_work_is_refused_before_it_starts(config, words):
    with pytest.raises(UserError, match=words):
        SwitchingVecEnv(Sequence.from_config(typed(SequenceConfig, {"name": "bad", **config}), 0, 1), 1, 0)
