"""What a grid is said to cost: speeds of seeds together, what is left, jobs on workers, a short table."""

import json
from dataclasses import replace

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from isorl.agents.batched import BatchedRuns
from isorl.agents.dqn import ContinualDQN
from isorl.configs import UserError
from isorl.experiments.grid import cost
from isorl.experiments.grid.cell import Cell
from isorl.experiments.grid.cost import Job, forecast
from isorl.experiments.grid.expand import Composer
from isorl.experiments.run import dry_run


@pytest.fixture
def cell(tmp_path):
    """cell(seed, ...) -> a cell of 1,000 agent steps."""

    def made(seed, arm="Adam", sequence="catch", **more):
        name = f"{sequence}-{arm}-{seed}"
        return Cell(name, tmp_path / name, (), sequence, arm, seed, 1000, **more)

    return made


def finished(cell, seconds, **more):
    """Its folder says that it took so long."""
    cell.folder.mkdir()
    (cell.folder / "summary.json").write_text(
        json.dumps({"returns": [{}], "agent_steps": 1000, "seconds": seconds, **more})
    )
    return cell


def unneeded(job):
    pytest.fail("the speed is known")


def test_counts_what_is_left(cell):
    done, begun, *others = [finished(cell(0), 10.0, together=1), *map(cell, (1, 2, 3))]
    begun.folder.mkdir()
    (begun.folder / "config.yaml").touch()
    (begun.folder / "metrics.jsonl").write_text('{"agent_step": 500, "task": "t"}\n')
    jobs = forecast([done, begun, *others], [[begun], *([one] for one in others)], unneeded)
    assert [job.speed for job in jobs] == [100.0] * 3
    assert [job.seconds for job in jobs] == [5.0, 10.0, 10.0]
    assert cost.sentence(jobs, 2).startswith(
        "3 cells, 2,500 agent steps, 25 seconds of one core, about 15 seconds with 2 at a time"
    )


def test_measures_once_for_a_sequence_with_as_many_runs_as_share_a_job(cell):
    measured = []

    def measure(job):
        measured.append([one.seed for one in job])
        return 100.0 * len(job)

    arms = [[cell(seed, arm) for seed in range(5)] for arm in ("Adam", "AEI", "AdamO")]
    jobs = forecast([], [arms[0], arms[1][:4], *([one] for one in arms[2])], measure)
    assert measured == [[0, 1, 2, 3, 4], [0]], "four are about as fast as five, one alone is not"
    assert [job.seconds for job in jobs] == [10.0, 8.0, *[10.0] * 5]
    assert forecast([], [[cell(0, "random", kind="random")]], unneeded)[0].seconds == cost.RANDOM_SECONDS


def test_speed_that_cannot_be_measured_is_said_and_stops_nothing(cell, capsys):
    tried = []

    def measure(job):
        tried.append(job[0].arm)
        if job[0].arm == "own":
            raise OSError("the cable")
        return 100.0

    jobs = forecast([], [[cell(seed, arm)] for arm in ("own", "Adam", "AEI") for seed in (0, 1)], measure)
    assert tried == ["own", "Adam"], "its failure says nothing of others, and is met once"
    assert [job.is_measured for job in jobs] == [False] * 2 + [True] * 4
    assert (
        "The speed of catch own is not known, a trial failed: OSError: the cable" in capsys.readouterr().err
    )
    said = cost.sentence(jobs, 2)
    assert said.startswith("6 cells, 6,000 agent steps, more than 40 seconds of one core; ")
    assert cost.sentence(jobs[:2], 2).startswith("2 cells, 2,000 agent steps, time not measured; ")
    console = Console(width=80)
    with console.capture() as shown:
        console.print(cost.table("some", jobs))
        console.print(cost.table("none", jobs[:2]))
    some, none = [line.split("│")[-4:-1] for line in shown.get().splitlines() if "catch" in line]
    assert [field.strip() for field in some] == ["6,000", "100", "more than 40 seconds"]
    assert [field.strip() for field in none] == ["2,000", "", "not measured"]


def test_mistake_of_the_user_ends_the_forecast(cell):
    def refuses(job):
        raise UserError("no such thing")

    with pytest.raises(UserError, match="no such thing"):
        forecast([], [[cell(0)]], refuses)


@pytest.mark.parametrize(
    ("together", "speed"), [({"together": 3}, 500.0), ({"together": 1}, 7.0), ({}, 7.0)], ids=str
)
def test_finished_cells_tell_the_speed_of_as_many_together(cell, together, speed):
    """Their seconds are a share of their process. Whether one without a count was made alone is not known."""
    done, left = finished(cell(0), 2.0, **together), [cell(seed) for seed in (1, 2)]
    assert [job.speed for job in forecast([done, *left], [left], lambda job: 7.0)] == [speed]


def test_own_arm_tells_more_than_another_and_its_candidates_are_one(cell):
    done = [finished(cell(0, f"{arm} | rate=1"), s, together=1) for arm, s in (("Adam", 2.0), ("AEI", 4.0))]
    left = [cell(0, "AEI | rate=2"), cell(0, "AdamO | rate=2"), cell(0, "AEI | rate=2", "rain")]
    jobs = forecast(done, [[one] for one in left], lambda job: 7.0)
    assert [job.speed for job in jobs] == [250.0, 500.0, 7.0]


def test_workers_take_jobs_and_not_cells(cell):
    pack = Job([cell(seed) for seed in range(6)], 100.0)
    alone = Job([cell(0, "Muon")], 50.0)
    assert cost.clock([pack], 4) == 60.0, "nobody helps with a job"
    assert cost.clock([alone, alone, pack], 2) == 80.0, "the last begins when a worker is free"
    assert cost.sentence([pack], 4).startswith("6 cells in 1 job, 6,000 agent steps, 60 seconds of one core")


def test_table_has_a_row_for_each_sequence(cell):
    jobs = [
        Job([cell(seed, arm, f"stream {number}")], 10.0)
        for number in range(60)
        for arm in ("Adam", "AEI | rate=1", "AEI | rate=2")
        for seed in (0, 1)
    ]
    console = Console(width=80)
    with console.capture() as shown:
        console.print(cost.table("many", jobs))
    assert len(shown.get().splitlines()) < 50
    assert "... and 20 more" in shown.get()
    [row] = [line for line in shown.get().splitlines() if "stream 0 " in line]
    assert [field.strip() for field in row.strip("│").split("│")][1:] == [
        "6",
        "6",
        "6,000",
        "10",
        "10.0 minutes",
    ]


@pytest.mark.parametrize("first_takes", [0.1, 5.0], ids=["as a warm-up", "the whole trial"])
@pytest.mark.parametrize("count", [1, 3])
def test_trial_of_runs_together(tiny, monkeypatch, count, first_takes):
    """All make the same rounds, computed as one; the first one counts only where it is as long as the trial."""
    dqn = [word for word in tiny if not word.startswith(("agent=", "agent.n_steps", "agent.n_epochs"))]
    config = Composer()([*dqn, "agent=dqn"])
    learned, learn = [], ContinualDQN.learn
    met, answers = set(), BatchedRuns._answers
    ticks = iter([0.0, *(first_takes + 0.75 * number for number in range(100))])
    monkeypatch.setattr(dry_run, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(
        ContinualDQN, "learn", lambda agent, *a, **k: learned.append(agent.seed) or learn(agent, *a, **k)
    )
    monkeypatch.setattr(
        BatchedRuns, "_answers", lambda runs, asked: met.add(len(asked)) or answers(runs, asked)
    )
    speed = cost.measured_speed([replace(config, seed=seed) for seed in range(count)])
    rounds = 1 if first_takes > 2 else 3
    assert speed == pytest.approx(count * rounds * 32 / (5.0 if first_takes > 2 else 2.25))
    assert sorted(learned) == sorted([*range(count)] * (rounds + (first_takes < 2)))
    assert met == {count}


@pytest.mark.parametrize(
    ("launcher", "jobs"),
    [
        ({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}, 1),
        ({"_target_": "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher", "n_jobs": 3}, 3),
    ],
)
def test_jobs_at_a_time_are_those_of_the_launcher(launcher, jobs):
    assert cost.at_once(OmegaConf.create(launcher)) == jobs
