"""The benchmarks of streams: what each must hold; and the picture of `make demo`, on real short runs."""

from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from docs import demo, draw_arbiter
from isorl.configs import typed
from isorl.configs.command_line import FOLDER
from isorl.configs.suite import BenchmarkConfig
from isorl.experiments.grid import tuning
from isorl.experiments.grid.cell import identity
from isorl.experiments.grid.expand import Composer, cells, requests_of_benchmark
from isorl.experiments.grid.grid import Grid
from isorl.experiments.grid.work import work
from isorl.experiments.report.find_runs import find_runs
from isorl.experiments.report.study import Study
from isorl.plasticity.methods import METHODS


@pytest.fixture
def suite():
    """suite("demo") -> configs/benchmark/demo.yaml."""

    def load(name):
        with initialize_config_dir(version_base=None, config_dir=str(FOLDER)):
            raw = compose("config", overrides=[f"+benchmark={name}"]).benchmark
        return typed(BenchmarkConfig, OmegaConf.to_container(raw))

    return load


def test_demo_shares_its_cells_with_claims(suite):
    composer = Composer()
    one, all_of_them = (
        {
            identity(composer(want.overrides))
            for want in requests_of_benchmark(suite(name), [])
            if want.seed == 100
        }
        for name in ("demo", "claims")
    )
    assert len(one) == 7
    assert one < all_of_them


def test_every_method_is_read_as_partial_isometry(suite):
    """Methods that need labels act against forgetting; those that need a package would fail without it."""
    arms = suite("partial_isometry").arms
    alone = {name for name, method in METHODS.items() if not method.needs_labels and method.requires is None}
    assert alone <= set(arms)
    assert all(f"method=[{name}]" in arms[name] for name in alone)


def test_whatever_tuning_of_partial_isometry_tries_can_be_composed(suite):
    study = suite("partial_isometry")
    composer = Composer()
    for arm in study.tuning.of_arm:
        words = [*study.words, *study.arms[arm], *tuning.candidates(study.tuning, arm)[0]]
        key, _, value = words[-1].partition("=")
        composed = OmegaConf.structured(composer([*words, "sequence=digits_random_labels"]))
        assert OmegaConf.select(composed, key) == pytest.approx(float(value))


def test_demo_draws_every_arm(suite, tmp_path):
    short = ["sequence.tasks.0.count=2", "sequence.tasks.0.agent_steps=2048"]
    composer = Composer()
    wanted = requests_of_benchmark(replace(suite("demo"), seeds=[100]), short)
    made = cells(wanted, (), tmp_path, composer)
    for cell in made:
        assert work(replace(composer(cell.overrides), run_dir=str(cell.folder))).did == "run"
    study = Study(find_runs([Grid("demo", made).save(tmp_path)]).runs)
    figure = demo.draw(study)
    assert [len(place.lines) for place in figure.axes] == [15, 14, 14, 8]  # a thin and a thick line per arm
    figure.savefig(tmp_path / "demo.png")
    assert (tmp_path / "demo.png").stat().st_size > 10_000


STREAMS = sorted(Path(draw_arbiter.__file__).parent.glob("results/arbiter/*/claims.md"))


@pytest.mark.parametrize("page", STREAMS, ids=lambda page: page.parent.name)
def test_the_arbiters_claims_follow_from_its_data(page):
    assert page.read_text() == "\n".join(draw_arbiter.claims(draw_arbiter.read(page.parent))) + "\n"
