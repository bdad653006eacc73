"""The short form of the harness; the long one is `make faults`."""

import pytest

from tests.faults import fuzz, kills, mutations, writes


def test_killed_runs_are_resumed_exactly(tmp_path):
    assert kills.kill_and_resume(tmp_path, 1, 0, ["dqn nine rooms"])["runs"] >= 1


def test_damaged_checkpoints_are_refused(tmp_path):
    counts = mutations.mutate(tmp_path, 40, 0)
    assert counts["hostile: refused"] > 0
    assert not counts["hostile: opened"]


def test_command_lines_run_or_are_refused(tmp_path):
    counts = fuzz.fuzz(tmp_path, 40, 1, runs=2)
    assert min(counts["refused"], counts["accepted"]) > 0
    assert counts["finished"] + counts["refused when built"] + counts["numbers not finite"] == 2


@pytest.mark.slow
def test_a_write_that_fails_ends_the_run_clearly(tmp_path):
    assert writes.fail_each(tmp_path, every=25)["ended clearly"] > 0
