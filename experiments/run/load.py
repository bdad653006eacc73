"""Opens a run from Python: its trained model, its environment and its configuration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from stable_baselines3.common.vec_env import VecEnv

from isorl.agents import Agent
from isorl.configs import RunConfig, UserError
from isorl.envs import Sequence
from isorl.experiments import plugins
from isorl.experiments.run import checkpoint, checkpoint_file
from isorl.experiments.run.experiment import Parts, build
from isorl.experiments.run.folder import RunFolder
from isorl.experiments.run.play import restored


@dataclass(frozen=True)
class LoadedRun:
    """Holds what `load` found.

    Attributes:
        model: the agent, a stable-baselines3 algorithm: `predict`, `policy`, `get_parameters`, ...
        env: the environment, a stable-baselines3 VecEnv in the task in which the checkpoint was written; observations
            are normalised as in training where the run has a normaliser.
        config: the configuration of the run.
        sequence: its tasks and their schedule.
        agent_step: the agent steps that the model had learned for.
    """

    model: Agent
    env: VecEnv
    config: RunConfig
    sequence: Sequence
    agent_step: int


def load(
    run_dir: str | Path, checkpoint: int | None = None, *, imports: Iterable[str] = (), device: str = "cpu"
) -> LoadedRun:
    """Returns the trained model of a run, its environment and its configuration.

    Of the folder, tensors and plain values are read; nothing in it is run. Modules that the run imported are imported
    by name from your own sys.path, and named on the terminal.

    >>> import isorl
    >>> run = isorl.load("runs/example")
    >>> observations = run.env.reset()
    >>> for _ in range(100):
    ...     actions, _ = run.model.predict(observations, deterministic=True)
    ...     observations, rewards, dones, infos = run.env.step(actions)
    >>> sorted(run.model.policy.networks())
    ['actor', 'critic']
    >>> run.config.sequence.name, run.agent_step
    ('catch_permuted-smoke', 128)

    Args:
        run_dir: the folder of the run.
        checkpoint: 0 is the newest, 1 the one before, ...; None: the newest that is whole.
        imports: modules and files of your own that the run needs, as `imports=[...]` on the command line.
        device: where the model lives: "cpu", "cuda", "auto".

    Raises:
        UserError: no run, no such checkpoint, a damaged one, or a module that cannot be found.
    """
    return _load(RunFolder.existing(run_dir), checkpoint, imports, device)


def _load(folder: RunFolder, number: int | None, entries: Iterable[str], device: str) -> LoadedRun:
    plugins.load(entries)
    config = replace(plugins.recorded(folder), device=device)
    parts = restored(folder, config) if number is None else _restored_from(folder, config, number)
    return LoadedRun(parts.agent, parts.env, config, parts.sequence, parts.agent.num_timesteps)


def _restored_from(folder: RunFolder, config: RunConfig, number: int) -> Parts:
    path = folder.checkpoint_path(number)
    if not path.is_file():
        raise UserError(f"There is no checkpoint {number} in '{folder.path}': '{path.name}' is not there.")
    parts = build(config)
    state = checkpoint_file.read(path, parts.agent.device)
    state.pop("replay", None)  # to look at, not to train
    checkpoint.restore(parts.agent, state)
    parts.agent.policy.set_training_mode(False)
    return parts
