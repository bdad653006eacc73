"""A benchmark is checked before anything is run, and its tuning is a benchmark of its own."""

from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from isorl import configs
from isorl.configs import UserError
from isorl.configs.suite import BenchmarkConfig, TuningConfig

TUNING = {"seeds": [7, 8], "budget": 2, "space": {"agent.gamma": [0.9, 0.99]}}


def benchmark(tuning=None, **change):
    tuned = None if tuning is None else TuningConfig(**{**TUNING, **tuning})
    arms, sequences = {"a": [], "b": ["x=1"]}, {"catch": ["y=1"], "rain": ["y=2"]}
    return BenchmarkConfig(
        **{
            "name": "test",
            "about": "a test",
            "arms": arms,
            "sequences": sequences,
            "seeds": [0, 1],
            "tuning": tuned,
            **change,
        }
    )


REFUSED = {
    "no arms": ({"arms": {}}, "benchmark.arms is empty"),
    "no sequences": ({"sequences": {}}, "benchmark.sequences is empty"),
    "no seeds": ({"seeds": []}, "benchmark.seeds is empty"),
    "stage": ({"stage": "tun"}, "must be 'report' or 'tune'"),
    "baseline": ({"baseline": "c"}, "benchmark.baseline is no arm"),
    "a seed twice": ({"seeds": [0, 1, 0]}, "names a seed twice"),
    "nothing to tune": ({"stage": "tune"}, "says nothing about tuning"),
    "tuned arm": ({"tuning": {"of_arm": {"c": {}}}}, "of_arm names 'c'"),
    "tuned sequence": ({"tuning": {"of_sequence": {"cath": []}}}, "of_sequence names 'cath'.*'catch'"),
    "only": ({"only": ["rian"]}, "only names 'rian'.*'rain'"),
    "seeds of both": ({"tuning": {"seeds": [1, 9]}}, r"Seeds \[1\] would both"),
}


@pytest.mark.parametrize(("change", "expected"), REFUSED.values(), ids=REFUSED)
def test_mistakes_are_answered(change, expected):
    with pytest.raises(UserError, match=expected):
        benchmark(**change)


def test_tuning_is_the_same_arms_on_its_own_seeds_and_lengths():
    whole = benchmark({"of_sequence": {"rain": ["z=3"]}}, baseline="a", stage="tune")
    tuned = whole.to_tune()
    assert tuned.arms == whole.arms
    assert tuned.sequences == {"catch": ["y=1"], "rain": ["y=2", "z=3"]}
    assert tuned.words == [*whole.words, "diagnostics.every=0"], "a score needs no diagnostics"
    assert (tuned.seeds, tuned.baseline, tuned.tuning, tuned.stage) == ([7, 8], None, None, "report")
    assert whole.sequences == {"catch": ["y=1"], "rain": ["y=2"]}


def test_a_piece_keeps_itself_to_its_arms_and_sequences():
    spoken_of = {"of_arm": {"a": {"k": [1]}, "b": {"k": [2]}}, "of_sequence": {"catch": ["z=3"]}}
    piece = benchmark(spoken_of, baseline="a", only=["b", "rain"])
    assert (piece.arms, piece.sequences, piece.baseline) == ({"b": ["x=1"]}, {"rain": ["y=2"]}, None)
    assert (piece.tuning.of_arm, piece.tuning.of_sequence) == ({"b": {"k": [2]}}, {})
    assert piece.to_tune().arms == {"b": ["x=1"]}
    by_sequence = benchmark(spoken_of, baseline="a", only=["catch"])
    assert (list(by_sequence.arms), list(by_sequence.sequences), by_sequence.baseline) == (
        ["a", "b"],
        ["catch"],
        "a",
    )


def test_what_a_benchmark_may_leave_out_is_what_the_command_line_can_set():
    without = BenchmarkConfig("test", "a test", {"a": []}, {"catch": []}, [0])
    required = {"name", "about", "arms", "sequences", "seeds"}
    family = yaml.safe_load((Path(configs.__file__).parent / "benchmark/family/default.yaml").read_text())
    assert family == {key: value for key, value in asdict(without).items() if key not in required}
