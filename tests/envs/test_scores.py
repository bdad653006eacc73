from importlib.util import find_spec

import gymnasium
import pytest

from isorl.configs import TaskConfig
from isorl.envs.scores import normalised, random_return, scores
from isorl.envs.sequence import _with_known_id, registered

PACKAGES = {"MinAtar/": "minatar", "dm_control/": "dm_control", "isorl/MetaWorld-": "metaworld"}


def test_the_table_is_about_environments_that_exist():
    _with_known_id(TaskConfig("ALE/Pong-v5", frames=8))
    assert len([env_id for env_id, score in scores().items() if score.source == "atari57"]) == 57
    for env_id, score in scores().items():
        assert score.reference is None or score.reference > score.random
        assert (score.reference is None) == (score.source == "random")
        if any(env_id.startswith(begins) and find_spec(name) is None for begins, name in PACKAGES.items()):
            continue  # not installed
        registered(env_id)
        if score.source == "threshold" and not env_id.startswith("isorl/"):
            assert gymnasium.spec(env_id).reward_threshold == score.reference


def test_normalised():
    assert normalised("ALE/Breakout-v5", 1.7) == 0
    assert normalised("ALE/Breakout-v5", 30.5) == 1
    assert normalised("ALE/Pong-v5", 20.9) == pytest.approx(41.6 / 35.3)
    assert normalised("Blackjack-v1", 1) is None
    assert normalised("MinAtar/Breakout-v0", 1) is None


@pytest.mark.parametrize("env_id", ["CartPole-v1", "MountainCar-v0", "isorl/Catch-v0"])
def test_random_returns_are_reproduced(env_id):
    mean, error = random_return(env_id, episodes=100)
    assert abs(mean - scores()[env_id].random) < 5 * error + 0.1
