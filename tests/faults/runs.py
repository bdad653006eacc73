"""Short runs of every agent and kind of sequence, each in a process of its own that can be killed."""

import multiprocessing
import os
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from isorl.configs import RunConfig
from isorl.configs.command_line import FOLDER, register_resolvers, resolve

QUICK = ["device=cpu", "evaluation.episodes=1", "evaluation.max_episode_steps=20", "diagnostics.every=900",
         "diagnostics.probe_size=8", "log_every=300", "checkpoint.every=500"]  # fmt: skip
CASES = {
    "ppo nine rooms": ["sequence=nine_rooms-smoke", "agent.n_epochs=2", "checkpoint.every=1000"],
    "dqn nine rooms": ["sequence=nine_rooms-smoke", "agent=dqn", "agent.buffer_size=600", "agent.learning_starts=200"],
    "dqn rain with replay kept": ["sequence=rain_permuted-smoke", "agent=dqn", "switch.replay=keep",
                              "agent.buffer_size=700", "++sequence.cycles=1"],
    "dqn control in four copies": ["sequence=control_cycle-smoke", "agent=dqn", "agent.n_envs=4", "++sequence.cycles=1",
                                 "agent.buffer_size=1200", "agent.learning_starts=300"],
    "ppo control normalised": ["sequence=control_cycle-smoke", "agent.n_steps=64", "agent.n_epochs=2",
                                "++sequence.cycles=1", "normalize.observations=true", "normalize.rewards=true",
                                "normalize.statistics=per_task"],
    "ppo lunar drift with redo": ["sequence=lunar_drift-smoke", "agent.n_steps=64", "agent.n_epochs=1",
                              "method=[redo,shrink_and_perturb]", "network=relu", "optimizer=adam"],
    "dqn atari": ["sequence=atari_switch-smoke", "agent=dqn", "agent.buffer_size=600", "agent.learning_starts=200",
                  "agent.train_freq=16", "diagnostics.every=0", "checkpoint.every=200",
                  "sequence.tasks=[{env:ALE/Boxing-v5,frames:2_000},{env:ALE/Breakout-v5,frames:2_000}]"],
    "ppo atari in two modes": ["sequence=atari_modes-smoke", "agent.n_envs=2", "agent.n_steps=64", "agent.n_epochs=1",
                               "agent.batch_size=64", "diagnostics.every=0", "checkpoint.every=256"],
    "ppo mujoco in processes": ["sequence=mujoco_cycle-smoke", "agent.n_envs=2", "agent.n_steps=256",
                                "agent.n_epochs=1", "faults.isolate=true"],
    "classifier digits": ["sequence=digits_noisy-smoke", "agent=classifier"],
}  # fmt: skip
FORK = multiprocessing.get_context("fork")  # a process starts in milliseconds: everything is imported already


def configured(words: list[str], folder: Path) -> RunConfig:
    """The configuration of a quick run."""
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base=None, config_dir=str(FOLDER)):
        return resolve(compose("config", overrides=[*QUICK, *words, f"run_dir={folder}"]))


def begin(words: list[str], folder: Path):
    """A started process that makes the run, or continues it where it has begun."""
    process = FORK.Process(
        target=_live, args=(configured(words, folder), folder)
    )  # a daemon may have no processes
    process.start()
    return process


def _live(config: RunConfig, folder: Path) -> None:
    from isorl.experiments.run import experiment

    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stderr.fileno())
    if (folder / "config.yaml").exists():
        experiment.resume(str(folder))
    else:
        experiment.start(config)


def finish(words: list[str], folder: Path) -> None:
    """Makes or continues the run to its end.

    Raises:
        AssertionError: it did not come to its end.
    """
    process = begin(words, folder)
    process.join()
    assert process.exitcode == 0, f"'{folder}' ended with code {process.exitcode}; see its run.log"
