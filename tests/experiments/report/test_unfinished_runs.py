"""What is known of a run that has not finished, read from what it has measured so far."""

import json

import numpy as np

from isorl.experiments.report.runs import Run, from_metrics


def test_a_run_that_has_not_finished_shows_its_visits_so_far(tmp_path):
    def row(key, value, visit, step):
        return {"key": key, "value": value, "visit": visit, "task": f"task {visit}", "agent_step": step}

    rows = [
        *(row("return/task 0", value, 0, step) for step, value in ((1, 1.0), (2, 3.0))),
        row("plasticity/effective_rank/actor", 7.0, 0, 3),
        row("visit/return_end/task 0", 5.0, 0, 3),
        row("visit/return_mean/task 0", 2.5, 0, 3),  # of every episode, of which not all are logged
        row("return/task 1", 4.0, 1, 4),
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    run = Run("a", tmp_path, "sequence", "arm", 0)
    from_metrics(run)
    np.testing.assert_array_equal(run.online, [2.5, 4.0])
    np.testing.assert_array_equal(run.end, [5.0, np.nan])
    assert (run.tasks, run.start.tolist(), run.agent_steps) == (("task 0", "task 1"), [1, 4], 4)
    assert run.notes == ["not finished: its last visit may be a part of one"]
