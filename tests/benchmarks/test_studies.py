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
from isorl.experiments.report.statistics import Estimate
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
            if "seed=100" in want.overrides
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


ARBITER = Path(draw_arbiter.__file__).parent / "results/arbiter"
STREAMS = sorted(ARBITER.glob("*/claims.md"))


@pytest.mark.parametrize("page", STREAMS, ids=lambda page: page.parent.name)
def test_the_arbiters_claims_follow_from_its_data(page):
    assert page.read_text() == draw_arbiter.claims(draw_arbiter.read(page.parent))


def test_the_arbiters_verdict_follows_from_its_data():
    streams, page = draw_arbiter.read_all(ARBITER), (ARBITER / "README.md").read_text()
    assert (ARBITER / "verdict.md").read_text() == draw_arbiter.verdict(streams)
    assert page == draw_arbiter.with_table(page, draw_arbiter.claims_table(streams))
    assert all(line in page for line in draw_arbiter.claims_table(streams))


def stream_of(adam=0.3, rank=(0.2, 0.1, 0.3), conditioning=(0.0, -0.1, 0.1), **ratios):
    """Returns a stream of ten seeds whose arms differ in their ratio as said, and in nothing else; AEI tuned best."""
    arms = {
        "Adam": adam,
        "AdamO": 0.5,
        "AEI": 0.95,
        "AEI, heads": 0.5,
        "Adam + MaxMin": 0.5,
        "Adam + FIRE": 0.5,
    }
    arms |= {f"Adam + {name}": ratio for name, ratio in ratios.items()}
    ratio = {arm: {seed: value + seed / 1000 for seed in range(10)} for arm, value in arms.items()}
    same = {arm: dict.fromkeys(range(10), 1.0) for arm in arms}
    values = {draw_arbiter.RATIO: ratio, draw_arbiter.RETURN: same, draw_arbiter.FIRST: same}
    boundary = {arm: "informed" if arm == "Adam + FIRE" else "agnostic" for arm in arms}
    scores = {arm: float(arm == "AEI") for arm in arms}
    return draw_arbiter.Stream("one", values, scores, boundary, {}, Estimate(*rank), Estimate(*conditioning))


def test_the_arbiters_rules():
    kept, lost, rival = stream_of(), stream_of(), stream_of(l2=0.99)
    lost.values[draw_arbiter.RATIO]["AEI"] = dict.fromkeys(range(10), 0.7)
    said = {claim: found for claim, (found, _) in draw_arbiter.judged(kept).items()}
    assert list(said.values()) == ["undecided", "for", "for", "for", "against", "for"]
    assert draw_arbiter.judged(lost)[draw_arbiter.KEEPS][0] == "against"
    assert draw_arbiter.judged(stream_of(conditioning=(0.2, 0.1, 0.3)))[draw_arbiter.RANK][0] == "undecided"
    assert draw_arbiter.over_streams(draw_arbiter.KEEPS, [kept, lost]) == "undecided"
    assert draw_arbiter.over_streams(draw_arbiter.KEEPS, [lost, lost]) == "against"
    assert (
        draw_arbiter.over_streams(draw_arbiter.CURE, [kept, rival]) == "undecided"
    )  # l2 was run on one, better there
    assert draw_arbiter.over_streams(draw_arbiter.CURE, [rival, rival, kept]) == "against"
    assert draw_arbiter.over_streams(draw_arbiter.SWITCHES, [kept, rival]) == "for"


def test_a_stream_on_which_nothing_is_lost_is_shown_and_not_counted():
    page = draw_arbiter.verdict([stream_of(), stream_of(adam=1.2)])
    assert "Nothing is lost on one: shown, not counted." in page
    assert "| Adam + MaxMin | agnostic | 1 | 0 | 0 | 1 |" in page
