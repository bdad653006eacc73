"""The life of a grid, with a launcher that works its jobs off in this process."""

import io
import json
import os
import shutil
import threading

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from isorl.configs import UserError
from isorl.experiments.grid import cost, launch, progress_table, watch
from isorl.experiments.grid.cell import Cell, State
from isorl.experiments.grid.expand import Composer
from isorl.experiments.grid.grid import Grid
from isorl.experiments.grid.work import Outcome, claimed, work


class Here:
    """Hydra's launcher, as far as a grid knows it; `before` sees each job's words first."""

    compose = Composer()

    def __init__(self, before=lambda words: None) -> None:
        self.jobs: list[list[str]] = []
        self.before = before

    def launch(self, job_overrides, initial_job_idx):
        assert initial_job_idx == len(self.jobs)
        results = []
        for words in job_overrides:
            self.jobs.append(list(words))
            self.before(words)
            results.append(OmegaConf.create())
            object.__setattr__(results[-1], "return_value", [work(self.compose(words))])
        return results


@pytest.fixture
def hydra(tmp_path):
    launcher = {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}
    return OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}, "launcher": launcher}, "together": 1})


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """No two seconds of training to learn the speed."""
    monkeypatch.setattr(cost, "measured_speed", lambda config: 1000.0)


def test_finished_cells_are_skipped_and_a_changed_configuration_is_new(hydra, tiny, capsys):
    first, again, more = Here(), Here(), Here()
    assert launch.launch(hydra, [*tiny, "seed=0,1"], first) == 0
    assert launch.launch(hydra, [*tiny, "seed=0,1"], again) == 0
    assert launch.launch(hydra, [*tiny, "seed=0,1", "agent.gamma=0.9"], more) == 0
    assert [len(launcher.jobs) for launcher in (first, again, more)] == [2, 0, 2]
    said = capsys.readouterr().err
    assert "Cost: 2 cells, 256 agent steps" in said
    assert "nothing, every cell is finished" in said


def test_any_sweep_can_have_references(hydra, tiny, tmp_path):
    hydra.references = True
    launcher = Here()
    words = [*tiny, "agent.gamma=0.9,0.99", "references=true"]
    assert launch.launch(hydra, words, launcher) == 0
    (folder,) = (tmp_path / "grids").iterdir()
    made = Grid.load(folder).cells
    assert sorted(cell.kind for cell in made) == ["arm"] * 2 + ["fresh"] * 2 + ["random"]
    kinds = {cell.id: cell.kind for cell in made}
    assert all(
        (kinds[cell.fresh], kinds[cell.random]) == ("fresh", "random") for cell in made if cell.kind == "arm"
    )
    assert {cell.arm for cell in made if cell.kind == "arm"} == {"agent.gamma=0.9", "agent.gamma=0.99"}


def test_failed_cell_does_not_stop_the_others(hydra, tiny, capsys, monkeypatch):
    from isorl.experiments.run import experiment

    start = experiment.start

    def breaks(config):
        if config.seed == 1:
            raise ArithmeticError("no luck with one")
        return start(config)

    monkeypatch.setattr(experiment, "start", breaks)
    launcher = Here()
    assert launch.launch(hydra, [*tiny, "seed=0,1,2"], launcher) == launch.UNFINISHED
    assert len(launcher.jobs) == 3, "what failed is not tried again in the same launch"
    said = capsys.readouterr().err
    assert "2 of 3 cells are finished" in said
    assert "seed 1: ArithmeticError: no luck with one" in said
    monkeypatch.undo()
    monkeypatch.setattr(cost, "measured_speed", lambda config: 1000.0)
    healed = Here()
    assert launch.launch(hydra, [*tiny, "seed=0,1,2"], healed) == 0
    assert len(healed.jobs) == 1


def test_cell_with_a_damaged_summary_is_made_again(hydra, tiny, tmp_path, capsys):
    """From its checkpoint, to the same results; files about a failure or about the process may be damaged, too."""
    assert launch.launch(hydra, [*tiny, "seed=0,1"], Here()) == 0
    damaged, _ = sorted(tmp_path.glob("cells/*/*/summary.json"))
    before = json.loads(damaged.read_text())["returns"]
    damaged.write_text(damaged.read_text()[:100])
    (damaged.parent / "run.json").write_text("{")
    again = Here()
    assert launch.launch(hydra, [*tiny, "seed=0,1"], again) == 0
    assert len(again.jobs) == 1
    assert json.loads(damaged.read_text())["returns"] == before
    assert "2 of 2 cells are finished" in capsys.readouterr().err


def test_damaged_reason_of_a_failure_is_named(hydra, tiny, capsys, monkeypatch):
    def breaks(config):
        raise ArithmeticError("no luck")

    def damage(*_):
        for cell in launch.plan(None, tiny, hydra_root(hydra), Composer()).cells:
            cell.failure.write_text('{"rea')
        return False

    monkeypatch.setattr("isorl.experiments.run.experiment.start", breaks)
    work_off = launch.work_off
    monkeypatch.setattr(launch, "work_off", lambda *given: work_off(*given) or damage())
    assert launch.launch(hydra, tiny, Here()) == launch.UNFINISHED
    assert "seed 0: its reason cannot be read" in capsys.readouterr().err


def test_launcher_that_loses_jobs_is_asked_again(hydra, tiny):
    deaths = iter([True, True, False, False, False])

    def dies_twice(words):
        if next(deaths):
            raise ConnectionError("the node is gone")

    launcher = Here(dies_twice)
    assert launch.launch(hydra, [*tiny, "seed=0,1"], _patient(launcher)) == 0


class _patient:
    """Counts jobs as Hydra does: all of a batch, whether they came to run or not."""

    def __init__(self, launcher) -> None:
        self.launcher = launcher

    def launch(self, job_overrides, initial_job_idx):
        self.launcher.jobs = [[]] * initial_job_idx
        return self.launcher.launch(job_overrides, initial_job_idx)


def test_jobs_that_a_scheduler_stopped_are_launched_again(hydra, tiny, monkeypatch):
    """As when Slurm wants a node back: the worker gives back its job unfinished."""
    ends = [Outcome("", "stopped", 0.0)]
    real = work
    monkeypatch.setitem(globals(), "work", lambda config: ends.pop() if ends else real(config))
    launcher = _patient(Here())
    assert launch.launch(hydra, [*tiny, "seed=0,1"], launcher) == 0


def test_launcher_that_always_loses_jobs_is_given_up(hydra, tiny):
    def dies(words):
        raise ConnectionError("no nodes")

    launcher = _patient(Here(dies))
    assert launch.launch(hydra, [*tiny, "seed=0,1"], launcher) == launch.UNFINISHED


def test_cell_of_another_launcher_is_left_to_it(hydra, tiny, capsys):
    launcher = Here()
    [cell] = launch.plan(None, tiny, hydra_root(hydra), Composer()).cells
    with claimed(cell.folder):
        assert launch.launch(hydra, tiny, launcher) == launch.UNFINISHED
    assert len(launcher.jobs) == 1, "it does not wait"
    assert cell.state() is State.WAITING
    capsys.readouterr()


def hydra_root(hydra):
    from pathlib import Path

    return Path(hydra.hydra.sweep.dir)


def test_stopping_says_how_to_go_on(hydra, tiny, capsys):
    def stops(words):
        raise KeyboardInterrupt

    assert launch.launch(hydra, tiny, Here(stops)) == launch.STOPPED
    assert "Give the same command again" in capsys.readouterr().err


def test_random_agents_are_a_grid_too(hydra, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(cost, "measured_speed", lambda configs: pytest.fail("it has no speed"))
    launcher = Here()
    assert launch.launch(hydra, [*tiny, "seed=0,1", "reference=random"], launcher) == 0
    assert [job.count("reference=random") for job in launcher.jobs] == [1, 1]
    assert len(list(tmp_path.glob("cells/*/random-seed*/summary.json"))) == 2


def test_dry_run_shows_the_cost_and_writes_nothing(hydra, tiny, tmp_path, capsys):
    launcher = Here()
    assert launch.launch(hydra, [*tiny, "seed=0,1,2", "dry_run=true"], launcher) == 0
    assert launcher.jobs == []
    assert list(tmp_path.iterdir()) == []
    assert "Cost: 3 cells, 384 agent steps, 0 seconds of one core" in capsys.readouterr().err


def test_cost_is_that_of_the_seeds_together(hydra, tiny, capsys, monkeypatch):
    measured: list[list[int]] = []
    monkeypatch.setattr(
        cost, "measured_speed", lambda configs: measured.append([c.seed for c in configs]) or 96
    )
    hydra.together = 10
    assert launch.launch(hydra, [*tiny, "seed=0,1,2", "network=relu,aei", "dry_run=true"], Here()) == 0
    assert measured == [[0, 1, 2]], "the other arm of the sequence is about equally fast"
    assert "Cost: 6 cells in 2 jobs, 768 agent steps, 8 seconds of one core" in capsys.readouterr().err


def test_table_shows_progress_rate_time_left_and_failures(tmp_path):
    made = [Cell(str(n), tmp_path / str(n), (), "catch", "Adam", n, 1000) for n in range(3)]
    looks = watch.Watch(made)
    looks.look()
    made[0].folder.mkdir()
    (made[0].folder / "summary.json").write_text('{"returns": [{"mean": 1.0}]}')
    made[1].failure.parent.mkdir()
    made[1].failure.write_text("{}")
    rows = looks.look()
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(progress_table.table(rows, rate=10.0))
    console.file.close()
    shown = console.export_text()
    for fact in ("catch", "Adam", "1 / 3", "33%", "10 agent steps/s", "3.3 minutes left", "1 failed"):
        assert fact in shown
    assert looks.rate > 0


def test_grid_is_read_as_it_was_written_also_after_a_move(tmp_path):
    cell = Cell("id", tmp_path / "a" / "cells" / "run", ("seed=1",), "s", "arm", 1, 10, fresh="f", random="r")
    folder = Grid("name", [cell], "python train.py", "about", "arm").save(tmp_path / "a")
    assert Grid.load(folder) == Grid("name", [cell], "python train.py", "about", "arm")
    shutil.move(tmp_path / "a", tmp_path / "b")
    [moved] = Grid.load(tmp_path / "b" / "grids" / "name").cells
    assert moved.folder == tmp_path / "b" / "cells" / "run"
    with pytest.raises(UserError, match=r"has no grid\.json"):
        Grid.load(tmp_path)


def test_the_table_is_drawn_anew_while_cells_are_at_work(monkeypatch):
    over, updates, update = threading.Event(), [], progress_table.Live.update

    class Watched:
        rate, looks = 1.0, 0

        def look(self):
            self.looks += 1
            if self.looks == 4:
                over.set()
            return {}

    def noted(live, table, **more):
        updates.append(more)
        update(live, table, **more)

    monkeypatch.setattr(progress_table, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(progress_table.Live, "update", noted)
    progress_table._live(Watched(), Console(file=io.StringIO(), force_terminal=True), over)
    assert updates == [{}, {}, {}, {"refresh": True}]
