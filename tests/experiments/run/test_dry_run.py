"""The speed that a dry run measures."""

from types import SimpleNamespace

import pytest

from isorl.experiments.run import dry_run


@pytest.mark.parametrize(("compiled", "least"), [((False, False), 1), ((True, False), 2)])
def test_a_first_round_in_which_any_run_compiles_never_counts(monkeypatch, compiled, least):
    trials = []

    def learn(agent, batch, trial):
        trials.append(trial)
        trial._ends = [0.0, 1.0, 3.0]
        return 10

    monkeypatch.setattr(dry_run, "_learn", learn)
    runs = [SimpleNamespace(agent=SimpleNamespace(compile=each)) for each in compiled]
    speed = dry_run.agent_steps_per_second(runs)
    assert {trial._least for trial in trials} == {least}
    assert speed == pytest.approx(trials[0].rounds * 20 / trials[0].seconds)


def test_plan_is_shown_where_the_speed_cannot_be_measured(configured, capsys, monkeypatch):
    def fails(*_):
        raise OSError("the cable")

    monkeypatch.setattr(dry_run, "_learn", fails)
    dry_run.show(configured("sequence=catch_permuted-smoke", "run_dir=unused"))
    shown = capsys.readouterr().out
    assert "not measured; on its first task, OSError: the cable" in shown
    assert "optimizer steps" in shown
