"""Tuning by successive halving: equal numbers of trials, ranges widened once, exact resume; returns are made up."""

import csv
import json
import math
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from isorl.configs import UserError, typed
from isorl.configs.suite import BenchmarkConfig, TuningConfig
from isorl.experiments.grid import cost, tuning
from isorl.experiments.grid.halving import around, halving
from isorl.experiments.grid.launch import STOPPED
from isorl.experiments.grid.rounds import tune

RATES = [1e-4, 1e-3, 1e-2, 1e-1]
SPACE = {"agent.learning_rate": RATES, "optimizer.iso_lambda": [0.03, 0.1, 0.3]}


def rounds_of(proposal, score):
    """The trials of every round, each judged by `score` of {key: number}."""
    found, scores = [], None
    while True:
        try:
            trials = next(proposal) if scores is None else proposal.send(scores)
        except StopIteration:
            return found
        found.append(trials)
        scores = {c: score({s.split("=")[0]: float(s.split("=")[1]) for s in c}) for c, _ in trials}


def proposed(config, is_possible):
    return halving(config, "AEI", tuning.candidates(config, "AEI"), is_possible)


def near(rate, strength):
    """A score that is highest at one place."""
    return lambda at: (
        -abs(math.log(at["agent.learning_rate"] / rate))
        - abs(math.log(at["optimizer.iso_lambda"] / strength))
    )


def test_the_better_half_goes_on_to_more_seeds_and_the_rest_of_the_budget_to_the_neighbourhood():
    config = TuningConfig(seeds=[7, 8, 9, 10], budget=12, space=SPACE, rungs=[1, 2, 4], refine=4)
    rounds = rounds_of(proposed(config, lambda candidate: True), near(1e-3, 0.1))
    assert [len(trials) for trials in rounds] == [8, 4, 2, 4]
    assert [{len(seeds) for _, seeds in trials} for trials in rounds] == [{1}, {2}, {4}, {4}]
    first, *_, last = ({c for c, _ in trials} for trials in rounds)
    assert not first & last
    assert len(first | last) == config.budget
    best = max(first, key=lambda c: near(1e-3, 0.1)({s.split("=")[0]: float(s.split("=")[1]) for s in c}))
    assert rounds[2][0][0] == best
    moved = [sum(a != b for a, b in zip(c, best, strict=True)) for c, _ in rounds[3][:2]]
    assert moved == [1, 1]


@pytest.mark.parametrize(("rate", "expected"), [(1.0, {"1.0", "10.0"}), (1e-6, {"1e-05", "1e-06"})])
def test_a_best_value_at_an_edge_widens_the_range_by_its_own_ratio(rate, expected):
    config = TuningConfig(seeds=[7], budget=16, space=SPACE, refine=4)
    rounds = rounds_of(proposed(config, lambda candidate: True), near(rate, 0.1))
    tried = {s.partition("=")[2] for c, _ in rounds[-1] for s in c if s.startswith("agent.learning_rate")}
    assert expected <= tried


def test_every_arm_gets_its_trials_though_nothing_lies_beyond():
    config = TuningConfig(seeds=[7], budget=12, space=SPACE, refine=4)
    rounds = rounds_of(proposed(config, lambda c: "agent.learning_rate=1.0" not in c), near(1.0, 0.1))
    assert [len(trials) for trials in rounds] == [8, 4]
    assert all("agent.learning_rate=1.0" not in c for c, _ in rounds[1])


def score_near(rate):
    return lambda at: -abs(math.log(at["agent.learning_rate"] / rate))


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        (1e-3, [("0.000316", 1e-4), ("0.00316", 1e-2), ("0.000562", 1e-4), ("0.00178", 1e-2)]),
        (1e-1, [("1.0", 0), ("10.0", 0), ("0.0316", 0), ("0.0562", 0)]),
    ],
    ids=["within", "at the edge"],
)
def test_where_all_neighbours_were_tried_values_between_them_and_the_best_are(best, expected):
    config = TuningConfig(seeds=[7], budget=8, space={"agent.learning_rate": RATES}, refine=4)
    *_, last = rounds_of(proposed(config, lambda candidate: True), score_near(best))
    assert [candidate for candidate, _ in last] == [(f"agent.learning_rate={rate}",) for rate, _ in expected]


@pytest.mark.parametrize("rate", [1e-4, 3e-4, 1e-3, 3e-3])
@pytest.mark.parametrize("strength", [0.01, 0.03, 0.1, 0.3])
def test_every_arm_gets_as_many_different_candidates_wherever_its_best_lies(rate, strength):
    space = {"agent.learning_rate": [3e-4, 1e-3, 3e-3], "optimizer.iso_lambda": [0.01, 0.03, 0.1, 0.3]}
    config = TuningConfig(seeds=[7, 8, 9], budget=16, space=space, rungs=[1, 3], refine=4)
    rounds = rounds_of(proposed(config, lambda candidate: True), near(rate, strength))
    assert len({candidate for trials in rounds for candidate, _ in trials}) == config.budget


def test_candidates_that_would_do_nothing_make_room_for_others_around_the_best():
    config = TuningConfig(seeds=[7], budget=16, space=SPACE, refine=4)
    first = tuning.candidates(config, "AEI")[:5]
    rounds = rounds_of(halving(config, "AEI", first, lambda candidate: True), near(1e-3, 0.1))
    assert [len(trials) for trials in rounds] == [5, 11]
    assert len({candidate for trials in rounds for candidate, _ in trials}) == config.budget


def test_what_is_no_range_is_not_widened():
    others = list(
        around(
            ("a=x", "b=true", "c=0", "d=3"), {"a": ["x", "y"], "b": [True, False], "c": [0, 1], "d": [2, 3]}
        )
    )
    assert [dict(s.split("=") for s in c)["d"] for c in others[:4]] == ["3", "4", "3", "7"], (
        "c, then d beyond its edge"
    )
    values = {key: {dict(s.split("=") for s in c)[key] for c in others} for key in "abcd"}
    assert (values["a"], values["b"]) == ({"x", "y"}, {"true", "false"})
    assert values["c"] == {str(n) for n in range(-6, 8)}
    assert values["d"] >= {"1", "2", "3", "4", "7", "10"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rungs": [2, 1]}, "numbers of seeds that rise, at most 2"),
        ({"rungs": [1, 3]}, "numbers of seeds that rise, at most 2"),
        ({"rungs": []}, "numbers of seeds that rise"),
        ({"refine": 4}, "below the budget, 4"),
    ],
)
def test_options_that_cannot_work(options, said):
    with pytest.raises(UserError, match=said):
        TuningConfig(**{"seeds": [7, 8], "budget": 4, "space": SPACE, **options})


class Known:
    """Finishes every job with a return that is highest at a learning rate of 0.1 for Adam, 1e-3 for LayerNorm."""

    def __init__(self, stop_at=math.inf) -> None:
        self.jobs: list[dict[str, str]] = []
        self.stop_at = stop_at

    def launch(self, job_overrides, initial_job_idx):
        for words in job_overrides:
            job = {word.partition("=")[0]: word.partition("=")[2] for word in words}
            self.jobs.append(job)
            if len(self.jobs) == self.stop_at:
                raise KeyboardInterrupt
            folder = Path(job["run_dir"].strip("'"))
            folder.mkdir(parents=True)
            best = 1e-3 if job.get("network") == "layer_norm" else 1e-1
            score = -abs(math.log10(float(job["agent.learning_rate"]) / best)) - 1e-3 * int(job["seed"])
            content = {"returns": [{"mean": score}], "agent_steps": 64, "seconds": 1.0}
            (folder / "summary.json").write_text(json.dumps(content))
        return []


@pytest.fixture
def hydra(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(cost, "measured_speed", lambda config: 1000.0)

    def composed(folder):
        benchmark = {
            "name": "tiny", "about": "", "arms": {"Adam": [], "LayerNorm": ["network=layer_norm"]},
            "sequences": {"catch": tiny}, "seeds": [0, 1], "stage": "tune",
            "tuning": {"seeds": [7, 8], "budget": 5, "rungs": [1, 2], "refine": 2,
                       "space": {"agent.learning_rate": [1e-4, 1e-3, 1e-2]}},
        }  # fmt: skip
        launcher = {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}
        hydra = {"sweep": {"dir": str(tmp_path / folder)}, "launcher": launcher}
        return OmegaConf.create({"benchmark": benchmark, "hydra": hydra, "together": 1})

    return composed


def left(config, name):
    return (Path(config.hydra.sweep.dir) / "grids" / "tiny-tune" / name).read_text()


def test_one_command_tunes_every_arm_with_equal_trials_and_writes_them_all(hydra, tmp_path):
    config, launcher = hydra("a"), Known()
    assert tune(config, [], launcher) == 0
    chosen = OmegaConf.create(left(config, "tuned.yaml")).chosen.catch
    assert list(chosen.Adam.overrides) == ["agent.learning_rate=0.1"], "beyond the edge of the range"
    assert list(chosen.LayerNorm.overrides) == ["agent.learning_rate=0.001"]
    assert [len(row.tried) for row in chosen.values()] == [5, 5]
    rows = list(csv.DictReader(left(config, "trials.csv").splitlines()))
    assert len(rows) == len(launcher.jobs) == 2 * (3 + 2 + 2 * 2)
    assert {row["seed"] for row in rows} == {"7", "8"}
    assert {row["state"] for row in rows} == {"finished"}
    best = [row for row in rows if row["chosen"] == "1"]
    assert {(row["arm"], row["candidate"]) for row in best} == {
        ("Adam", "agent.learning_rate=0.1"),
        ("LayerNorm", "agent.learning_rate=0.001"),
    }
    suite = typed(BenchmarkConfig, OmegaConf.to_container(config.benchmark))
    suite.stage, suite.tuned = "report", str(tmp_path / "a" / "grids" / "tiny-tune" / "tuned.yaml")
    assert tuning.settings(suite)["catch", "Adam"] == ["agent.learning_rate=0.1"]


def test_a_schedule_that_never_comes_due_is_not_a_trial(hydra):
    config, launcher = hydra("a"), Known()
    config.benchmark.arms = {"FIRE": ["method=[fire]"]}
    config.benchmark.tuning.of_arm = {"FIRE": {"method.fire.every": [2, 4, 100]}}
    config.benchmark.tuning.space = {"agent.learning_rate": [1e-2]}
    assert tune(config, [], launcher) == 0
    tried = [job["method.fire.every"] for job in launcher.jobs]
    assert not {"100", "0"} & set(tried), "nor is a range widened to 0, which means: at switches"
    assert {"2", "4", "3", "1"} <= set(tried), "instead"


def test_methods_that_never_act_in_tuning_are_refused_before_anything_is_written(hydra):
    config = hydra("a")
    config.benchmark.arms = {"FIRE": ["method=[fire]", "method.fire.every=1000"]}
    with pytest.raises(UserError, match="whatever is tried, the methods of 'FIRE' do nothing on 'catch'"):
        tune(config, [], Known())
    assert not Path(config.hydra.sweep.dir).exists()


@pytest.mark.parametrize("stop_at", [*(pytest.param(n, marks=pytest.mark.slow) for n in (2, 15)), 8])
def test_tuning_that_was_stopped_goes_on_to_the_same_end(hydra, stop_at):
    whole, parts = hydra("whole"), hydra("parts")
    everything = Known()
    assert tune(whole, [], everything) == 0
    assert tune(parts, [], Known(stop_at)) == STOPPED
    assert not (Path(parts.hydra.sweep.dir) / "grids" / "tiny-tune" / "tuned.yaml").exists()
    rest = Known()
    assert tune(parts, [], rest) == 0
    assert len(rest.jobs) == len(everything.jobs) - (stop_at - 1)
    assert left(parts, "tuned.yaml") == left(whole, "tuned.yaml")
    assert left(parts, "trials.csv") == left(whole, "trials.csv")


def test_pieces_come_to_one_record_unless_their_terms_differ(hydra):
    whole, pieces = hydra("whole"), hydra("pieces")
    assert tune(whole, [], Known()) == 0
    for arm in ("LayerNorm", "Adam"):
        pieces.benchmark.only = [arm]
        assert tune(pieces, [], Known()) == 0
    assert OmegaConf.create(left(pieces, "tuned.yaml")) == OmegaConf.create(left(whole, "tuned.yaml"))
    assert sorted(left(pieces, "trials.csv").splitlines()) == sorted(left(whole, "trials.csv").splitlines())
    pieces.benchmark.tuning.budget = 4
    assert tune(pieces, [], Known()) == 0
    assert list(OmegaConf.create(left(pieces, "tuned.yaml")).chosen.catch) == ["Adam"]
    assert {row["arm"] for row in csv.DictReader(left(pieces, "trials.csv").splitlines())} == {"Adam"}


def test_a_dry_run_shows_the_first_round_and_writes_nothing(hydra, capsys):
    config, launcher = hydra("a"), Known()
    assert tune(config, ["dry_run=true"], launcher) == 0
    assert launcher.jobs == []
    assert "round 1 of 3" in capsys.readouterr().err
    assert not Path(config.hydra.sweep.dir).exists()
