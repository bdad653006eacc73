"""Short runs, in this process."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from isorl.configs import RunConfig
from isorl.configs.command_line import FOLDER, register_resolvers, resolve
from isorl.experiments.run import experiment

QUICK = ["evaluation.episodes=2", "evaluation.max_episode_steps=40", "diagnostics.every=1000", "device=cpu"]


@pytest.fixture
def configured():
    """configured("agent=dqn", ...) -> the configuration of a quick run with these overrides."""

    def compose_quick(*overrides: str) -> RunConfig:
        register_resolvers()
        GlobalHydra.instance().clear()
        with initialize_config_dir(version_base=None, config_dir=str(FOLDER)):
            return resolve(compose("config", overrides=[*QUICK, *overrides]))

    return compose_quick


@pytest.fixture
def run(configured, tmp_path):
    """run("agent=dqn", ..., folder="a") -> (summary, folder) of a finished quick run."""

    def start(*overrides: str, folder: str = "run") -> tuple[dict, Path]:
        path = tmp_path / folder
        return experiment.start(configured(*overrides, f"run_dir={path}")), path

    return start
