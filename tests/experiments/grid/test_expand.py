"""From words to cells."""

import json
import math
from dataclasses import replace

import pytest

from isorl.configs import UserError, typed
from isorl.configs.command_line import FOLDER, composed, resolve
from isorl.configs.suite import BenchmarkConfig, TuningConfig
from isorl.experiments.grid import tuning
from isorl.experiments.grid.cell import Cell
from isorl.experiments.grid.expand import Composer, cells, requests_of_benchmark, requests_of_sweep
from isorl.experiments.grid.halving import halving
from isorl.experiments.grid.references import referred


@pytest.fixture
def suite(tiny):
    return BenchmarkConfig(
        name="tiny",
        about="",
        arms={"Adam": [], "AEI": ["network=aei", "optimizer=adamo"], "ReDo": ["method=[redo]"]},
        sequences={"catch": tiny},
        seeds=[0, 1],
    )


def test_sweep_makes_every_combination(tiny, tmp_path):
    made = cells(requests_of_sweep([*tiny, "seed=0,1", "agent.gamma=0.9,0.99"]), (), tmp_path, Composer())
    assert len({cell.id for cell in made}) == len({cell.folder for cell in made}) == 4
    assert {(cell.seed, cell.arm) for cell in made} == {
        (seed, f"agent.gamma={gamma}") for seed in (0, 1) for gamma in ("0.9", "0.99")
    }
    assert {cell.sequence for cell in made} == {"catch_permuted-smoke"}
    assert {cell.agent_steps for cell in made} == {128}


def test_what_is_played_makes_sequences_not_arms(tmp_path):
    words = [
        "sequence=env",
        "env=CartPole-v1,Acrobot-v1",
        "agent_steps=64,128",
        "agent.gamma=0.9,0.99",
        "seed=0,1",
    ]
    made = cells(requests_of_sweep(words), (), tmp_path, Composer())
    assert len({cell.id for cell in made}) == len({cell.folder for cell in made}) == 16
    assert {cell.arm for cell in made} == {"agent.gamma=0.9", "agent.gamma=0.99"}
    assert {cell.sequence for cell in made} == {
        f"env env={env} agent_steps={steps}" for env in ("CartPole-v1", "Acrobot-v1") for steps in (64, 128)
    }
    cycles = cells(
        requests_of_sweep(["sequence=control_cycle", "sequence.cycles=1,2"]), (), tmp_path, Composer()
    )
    assert {(cell.sequence, cell.arm) for cell in cycles} == {
        (f"control_cycle sequence.cycles={number}", "") for number in (1, 2)
    }


def test_benchmark_adds_each_reference_once(suite, tmp_path):
    made = cells(requests_of_benchmark(suite, []), suite.references, tmp_path, Composer())
    kinds = [cell.kind for cell in made]
    assert (kinds.count("arm"), kinds.count("fresh"), kinds.count("random")) == (6, 4, 2)
    by_id = {cell.id: cell for cell in made}
    for cell in made:
        assert (by_id[cell.random].kind, by_id[cell.random].seed) == ("random", cell.seed)
        assert cell.kind == "random" or (by_id[cell.fresh].kind, by_id[cell.fresh].seed) == (
            "fresh",
            cell.seed,
        )
    adam, redo = (next(c for c in made if (c.arm, c.seed) == (arm, 0)) for arm in ("Adam", "ReDo"))
    assert adam.fresh == redo.fresh
    assert by_id[adam.fresh].overrides[-1] == "reference=fresh"


def test_words_of_the_command_line_come_last_and_multiply(suite):
    requests = requests_of_benchmark(suite, ["network=layer_norm", "agent.gamma=0.9,0.99"])
    assert len(requests) == 12
    assert {request.arm for request in requests} >= {"Adam agent.gamma=0.9", "Adam agent.gamma=0.99"}
    assert all(
        [w for w in request.overrides if w.startswith("network=")] == ["network=layer_norm"]
        for request in requests
    )


def test_two_cells_in_one_folder_are_refused(tiny, tmp_path):
    with pytest.raises(UserError, match="would hold two cells"):
        cells(requests_of_sweep([*tiny, "seed=0,1", f"run_dir={tmp_path}/one"]), (), tmp_path, Composer())


def test_run_dir_of_the_users_is_kept(tiny, tmp_path):
    words = [*tiny, "seed=0,1", f"run_dir={tmp_path}/of-${{seed}}"]
    made = cells(requests_of_sweep(words), (), tmp_path, Composer())
    assert [cell.folder for cell in made] == [tmp_path / "of-0", tmp_path / "of-1"]


MISTAKES = {
    "seed of a benchmark": (["seed=3"], "benchmark.seeds"),
    "one run alone": (["resume=a,b"], "for one run"),
    "no list": (["agent.gamma=interval(0,1)"], "list of values"),
}


@pytest.mark.parametrize(("words", "expected"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_answered(suite, words, expected):
    with pytest.raises(UserError, match=expected):
        requests_of_benchmark(suite, words)


def test_bad_value_in_any_cell_stops_the_grid_before_it_starts(tiny, tmp_path):
    with pytest.raises(UserError, match="batch_size"):
        cells(requests_of_sweep([*tiny, "agent.batch_size=16,1000"]), (), tmp_path, Composer())


def first_round(suite):
    """The requests of the trials with which tuning begins."""
    first = {arm: tuning.candidates(suite.tuning, arm) for arm in suite.arms}
    proposals = {
        (sequence, arm): halving(suite.tuning, arm, first[arm], bool)
        for sequence in suite.sequences
        for arm in suite.arms
    }
    trials = [tuning.Trial(*key, *trial) for key, proposal in proposals.items() for trial in next(proposal)]
    return [request for trial in trials for request in tuning.requests(suite, trial, [])]


class TestTuning:
    space: dict = {"agent.learning_rate": [1e-4, 1e-3, 1e-2], "agent.gamma": [0.9, 0.99]}  # noqa: RUF012

    def of(self, suite, **more):
        suite.stage = "tune"
        suite.tuning = TuningConfig(**{"seeds": [7, 8], "budget": 4, "space": self.space, **more})
        suite.__post_init__()
        return suite

    def test_every_arm_gets_the_same_number_on_the_tuning_seeds(self, suite):
        suite = self.of(suite, of_arm={"AEI": {"optimizer.iso_lambda": [0.01, 0.1, 1.0]}})
        requests = first_round(suite)
        arms = [request.arm.partition(" | ")[0] for request in requests]
        assert {arm: arms.count(arm) for arm in suite.arms} == {arm: 4 * 2 for arm in suite.arms}
        assert {request.overrides[-1] for request in requests} == {"seed=7", "seed=8"}
        assert [request.overrides for request in first_round(suite)] == [
            request.overrides for request in requests
        ]

    def test_a_trial_is_of_one_arm_on_one_sequence(self, suite):
        suite = self.of(replace(suite, sequences={**suite.sequences, "rain": ["sequence=rain_permuted"]}))
        trial = tuning.Trial("rain", "AEI", ("agent.gamma=0.9",), (7, 8))
        requests = tuning.requests(suite, trial, ["device=cpu"])
        made = [(request.sequence, request.overrides[-1]) for request in requests]
        assert made == [("rain", "seed=7"), ("rain", "seed=8")]
        assert {request.arm for request in requests} == {"AEI | agent.gamma=0.9"}

    def test_reported_seeds_cannot_be_tuning_seeds(self, suite):
        with pytest.raises(UserError, match=r"Seeds \[1\] would both"):
            self.of(suite, seeds=[1, 2])

    def test_space_below_the_budget_is_refused(self, suite):
        with pytest.raises(UserError, match="has 6 settings, fewer than the budget of 7"):
            first_round(self.of(suite, budget=7))

    def test_chosen_settings_reach_the_cells_before_the_users_words(self, suite, tmp_path):
        suite = self.of(suite)
        chosen = {
            "catch": {
                arm: {"overrides": ["agent.learning_rate=0.5", "agent.gamma=0.5"]} for arm in suite.arms
            }
        }
        tuning.save(tmp_path / "tuned.yaml", suite, chosen)
        suite.tuned = str(tmp_path / "tuned.yaml")
        requests = requests_of_benchmark(suite, ["agent.gamma=0.7"], tuning.settings(suite))
        assert all("agent.learning_rate=0.5" in request.overrides for request in requests)
        assert all(
            [w for w in request.overrides if "gamma" in w] == ["agent.gamma=0.7"] for request in requests
        )
        suite.seeds = [8, 9]
        with pytest.raises(UserError, match=r"Seeds \[8\] chose the settings"):
            tuning.settings(suite)

    def test_values_of_a_space_are_words_without_blanks(self, suite, tiny):
        space = {
            "network.widths": [[64, 64], [8]],
            "agent.clip_range_vf": [None],
            "agent.normalize_advantage": [False],
        }
        found = tuning.candidates(self.of(suite, space=space, budget=2).tuning, "Adam")
        assert found[0] == (
            "network.widths=[64,64]",
            "agent.clip_range_vf=null",
            "agent.normalize_advantage=false",
        )
        config = Composer()([*tiny, *found[0]])
        assert config.network["widths"] == [64, 64]
        assert (config.agent["clip_range_vf"], config.agent["normalize_advantage"]) == (None, False)

    def test_the_best_candidate_is_chosen_and_a_failed_one_never(self, suite, tmp_path):
        """Of three candidates one fails on one seed, although its other seed is the best of all."""
        suite = self.of(suite, space={"agent.gamma": [0.1, 0.2, 0.3]}, budget=3, seeds=[7, 8])
        returns = {"0.1": [1.0, 2.0], "0.2": [9.0, None], "0.3": [2.0, 3.0]}
        made = [self.cell(tmp_path, "Adam", *row) for row in returns.items()]
        cells = [cell for pair in made for cell in pair]
        assert tuning.choose(cells)["catch"]["Adam"] == {
            "overrides": ["agent.gamma=0.3"],
            "score": 2.5,
            "tried": {"agent.gamma=0.1": 1.5, "agent.gamma=0.2": pytest.approx(math.nan, nan_ok=True),
                      "agent.gamma=0.3": 2.5},
            "unfinished": 0,
        }  # fmt: skip

    def cell(self, folder, arm, gamma, means):
        """The cells of one candidate on its seeds; None: it failed."""
        made = []
        for seed, mean in enumerate(means):
            place = folder / f"{arm}-{gamma}-{seed}"
            made.append(Cell(place.name, place, (), "catch", f"{arm} | agent.gamma={gamma}", seed, 64))
            if mean is None:
                made[-1].failure.parent.mkdir(exist_ok=True)
                made[-1].failure.write_text("{}")
            else:
                place.mkdir()
                (place / "summary.json").write_text(json.dumps({"returns": [{"mean": mean}]}))
        return made

    def test_unfinished_tuning_is_not_reported(self, suite, tmp_path):
        suite = self.of(suite, space={"agent.gamma": [0.1, 0.2]}, budget=2)
        cells = [cell for arm in suite.arms for cell in self.cell(tmp_path, arm, "0.1", [1.0, 2.0])]
        waiting = Cell("w", tmp_path / "w", (), "catch", "AEI | agent.gamma=0.2", 7, 64)
        tuning.save(tmp_path / "tuned.yaml", suite, tuning.choose([*cells, waiting]))
        suite.tuned = str(tmp_path / "tuned.yaml")
        with pytest.raises(UserError, match="'AEI' on 'catch': 1 cells of its candidates are not finished"):
            tuning.settings(suite)

    def test_an_arm_without_any_score_is_not_reported(self, suite, tmp_path):
        suite = self.of(suite, space={"agent.gamma": [0.1, 0.2]}, budget=2)
        cells = [cell for arm in suite.arms for cell in self.cell(tmp_path, arm, "0.1", [None, 2.0])]
        tuning.save(tmp_path / "tuned.yaml", suite, tuning.choose(cells))
        suite.tuned = str(tmp_path / "tuned.yaml")
        with pytest.raises(UserError, match="'Adam' on 'catch': none of its candidates has a score"):
            tuning.settings(suite)

    def test_missing_record_says_how_to_make_it(self, suite):
        suite.tuned = "nowhere.yaml"
        with pytest.raises(UserError, match=r"benchmark\.stage=tune"):
            tuning.settings(suite)


SUITES = sorted(file.stem for file in (FOLDER / "benchmark").glob("*.yaml"))


@pytest.mark.parametrize("name", SUITES)
def test_suites_fit_their_schema(name):
    """Every arm and every sequence of every suite composes."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(version_base=None, config_dir=str(FOLDER)):
        raw = compose("config", overrides=[f"+benchmark={name}", "benchmark.stage=report"]).benchmark
    suite = typed(BenchmarkConfig, OmegaConf.to_container(raw))
    suite.seeds, suite.tuned = suite.seeds[:1], None
    requests = requests_of_benchmark(suite, [])
    some = {request.arm: request for request in requests} | {
        request.sequence: request for request in requests
    }
    composer = Composer()
    assert {composer(request.overrides).seed for request in some.values()} == set(suite.seeds)
    assert {request.arm for request in requests} == set(suite.arms)
    if suite.tuning is not None:
        assert first_round(suite)


@pytest.mark.parametrize(
    "overrides",
    [
        [
            "agent.learning_rate=1e-2",
            "sequence=rain_permuted",
            "agent=dqn",
            "seed=3",
            "agent.learning_rate=3e-3",
        ],
        ["network=aei", "network.widths=[8,8]", "method=[redo]", "method.redo.tau=0.5", "seed=1"],
        [
            "+sequence.tuning.ppo={n_steps: 64}",
            "sequence=catch_permuted",
            "switch.normalizer=reset",
            "seed=1",
        ],
        ["run_dir=runs/of-${seed}", "sequence.cycles=2", "seed=7"],
        ["sequence=env", "env=Pendulum-v1", "agent_steps=64", "reference=fresh", "seed=2"],
    ],
)
def test_a_cell_is_what_its_command_line_alone_is(overrides):
    composer = Composer()
    composer(
        [override for override in overrides if "seed=" not in override]
    )  # what other cells composed before
    alone = composed(
        overrides if any("run_dir" in each for each in overrides) else ["run_dir='?'", *overrides]
    )
    assert composer(overrides) == referred(resolve(alone), alone.reference)
    assert composer(overrides).seed == int(next(each for each in overrides if "seed=" in each).split("=")[1])
