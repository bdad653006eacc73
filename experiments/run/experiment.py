"""Runs an experiment from the configuration to the summary.

sequence -> environment -> agent -> (restore) -> learn, accompanied by RunCallback -> summary
"""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import OmegaConf
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from isorl.agents import Agent
from isorl.agents.options import (
    agent_options,
    check_metrics,
    make_agent,
    make_methods,
    network_spec,
    planned_updates,
)
from isorl.configs import RunConfig, UserError
from isorl.envs import Sequence, SwitchingVecEnv
from isorl.envs.failures import Failures
from isorl.envs.normalize import TaskNormalize
from isorl.experiments import plugins
from isorl.experiments.run import dashboard, longer, summary
from isorl.experiments.run.callback import RunCallback
from isorl.experiments.run.checkpoint_manager import CheckpointManager
from isorl.experiments.run.divergence import DivergenceMonitor
from isorl.experiments.run.evaluation import Evaluator
from isorl.experiments.run.folder import LOG, RunFolder
from isorl.experiments.run.loggers import Description, check_loggers
from isorl.experiments.run.probes import load_or_collect
from isorl.experiments.run.progress import ProgressBar
from isorl.experiments.run.recording import Recorder, cut_back
from isorl.experiments.run.returns import Returns
from isorl.experiments.run.run_state import RunState
from isorl.experiments.terminal import explain, say
from isorl.plasticity import AdamO
from isorl.plasticity.diagnostics import snapshot
from isorl.plasticity.networks import describe_body


@dataclass(frozen=True)
class Parts:
    """Holds what a run is made of."""

    sequence: Sequence
    env: VecEnv
    agent: Agent
    initial: dict[str, torch.Tensor]  # weights before any training: what distances are measured from

    @property
    def switching(self) -> SwitchingVecEnv:
        """The environment under its normaliser."""
        return self.env.unwrapped  # type: ignore[return-value]


def build(config: RunConfig) -> Parts:
    """Makes the parts of a run, all checked; nothing is written.

    Raises:
        UserError: whatever in `config` cannot work.
    """
    if config.agent["name"] == "random":
        raise UserError(
            "A random agent learns nothing: there is nothing to resume, to play or to inspect. "
            "reference=random makes its returns anew within seconds."
        )
    torch.set_num_threads(config.threads)
    try:
        network_spec(config), make_methods(config)  # cheap to check before environments are made
        check_metrics(config)
        check_loggers(config)
        n_envs = agent_options(config).n_envs
        sequence = Sequence.from_config(config.sequence, config.seed, n_envs)
        env: VecEnv = SwitchingVecEnv(sequence, n_envs, config.seed, failures=Failures(config.faults))
        if config.normalize.observations or config.normalize.rewards:
            gamma = float(config.agent.get("gamma", 0.99))
            normalizer = VecNormalize if config.normalize.statistics == "shared" else TaskNormalize
            env = normalizer(env, norm_obs=config.normalize.observations, norm_reward=config.normalize.rewards,
                               gamma=gamma)  # fmt: skip
        agent = make_agent(config, env)
        return Parts(sequence, env, agent, snapshot(agent.learner.networks))
    except UserError:
        raise
    except ValueError as error:  # of a network, a method, a space: a value that cannot work
        raise UserError(str(error) or explain(error)) from error


def start(config: RunConfig) -> dict[str, Any]:
    """Trains from the beginning; returns the summary."""
    folder = RunFolder.checked_new(config.run_dir)
    parts = build(config)
    with folder.locked():
        folder.create(config)
        keeper = CheckpointManager(folder, config.checkpoint, parts.agent)
        return _train(config, folder, parts, RunState(Returns(parts.sequence.visits)), keeper)


def resume(run_dir: str, cycles: int | None = None) -> dict[str, Any]:
    """Continues the run in `run_dir` from its newest checkpoint; returns the summary.

    Args:
        run_dir: the folder of the run.
        cycles: the cycles of its sequence from now on, more than before; the run, finished or not, ends as if it had
            been planned so from the start. None: as it was planned.

    Raises:
        UserError: no run, a finished one, or one that cannot go on.
    """
    folder = RunFolder.existing(run_dir)
    with folder.locked():
        config = plugins.recorded(folder)
        if cycles is not None:
            config = longer.lengthened(config, cycles)
        parts = build(config)
        state, keeper = (
            RunState(Returns(parts.sequence.visits)),
            CheckpointManager(folder, config.checkpoint, parts.agent),
        )
        is_restored = keeper.load(state)
        if cycles is not None:
            longer.note(folder, config, keeper)
        if not is_restored:
            parts = build(config)  # it stopped before its first checkpoint: from the beginning
            keeper = CheckpointManager(folder, config.checkpoint, parts.agent)
        if parts.switching.finished or parts.agent.num_timesteps >= parts.sequence.agent_steps:
            if summary.read_summary(folder.summary) is not None:
                raise UserError(
                    f"The run in '{run_dir}' is finished: {parts.agent.num_timesteps:,} agent steps. "
                    f"It goes on with more cycles: sequence.cycles={config.sequence.cycles + 1}"
                )
            methods = methods_of(config, parts)  # it died after its last checkpoint
            return summary.write(folder.summary, parts.sequence, state, 0.0, methods)
        cut_back(folder.path, state.records)
        return _train(config, folder, parts, state, keeper)


def _train(
    config: RunConfig, folder: RunFolder, parts: Parts, state: RunState, keeper: CheckpointManager
) -> dict[str, Any]:
    sequence, env, agent = parts.sequence, parts.env, parts.agent
    common, failures = parts.switching.common, parts.switching.failures
    folder.start_log()
    for warning in keeper.warnings:
        _warn(warning)
    LOG.info("switch options: %s", config.switch)
    _announce(config, parts)
    done = agent.num_timesteps
    recorder = Recorder(folder.path, config, parts.switching.visit)
    agent.set_logger(recorder.logger)
    if not done:
        recorder.describe(_description(config, parts))
    callback = RunCallback(
        config,
        keeper,
        sequence,
        state,
        recorder,
        Evaluator(config.evaluation, common, config.seed + 10_000, failures),
        load_or_collect(
            folder.probes, sequence, common, config.diagnostics.probe_size, config.seed, failures
        ),
        parts.initial,
        DivergenceMonitor(agent, failures),
        ProgressBar(sequence.agent_steps, done),
    )
    began = time.monotonic()
    callback.progress.start()
    try:
        with callback.stop.heard():
            remaining = sequence.agent_steps - done
            # log_interval None: RunCallback says when SB3 writes its rows
            agent.learn(remaining, callback, log_interval=None, reset_num_timesteps=not done)
    except BaseException as error:
        reason = callback.divergence.reason_of(error)
        _save_what_is_held(keeper, reason)
        if reason is error:
            raise
        raise reason from error
    finally:
        callback.progress.stop()
        recorder.close()
        folder.stop_log()
        env.close()
    seconds = (time.monotonic() - began) / agent.num_runs_in_process
    return summary.write(folder.summary, sequence, state, seconds, methods_of(config, parts))


def _save_what_is_held(keeper: CheckpointManager, error: BaseException) -> None:
    """Writes the latest snapshot before `error` ends the run; tells it from where the run can be resumed."""
    if getattr(error, "saves", True):
        try:
            keeper.write()
        except OSError as failed:
            LOG.error("the last snapshot could not be written: %s", failed)
    LOG.error("stopped: %s: %s; checkpoint at agent step %s", type(error).__name__, error, keeper.saved_at)
    error.saved_at = keeper.saved_at  # type: ignore[attr-defined]


def _announce(config: RunConfig, parts: Parts) -> None:
    """Says, on the terminal and in the log, what a glance at the configuration does not tell."""
    sequence = parts.sequence
    say(
        f"{sequence.name}: {len(sequence.visits)} visits, {sequence.agent_steps:,} agent steps; "
        f"{config.agent['name']} on {parts.agent.device}, run folder {config.run_dir}"
    )
    LOG.info("network: %s", describe_body(parts.switching.common.observation.shape, network_spec(config)))
    updates = planned_updates(config, sequence)
    for message in _idle(config, parts).values():
        _warn(message)
    message, warned = isometry_step(parts.agent.policy.optimizer, updates)
    if message:
        LOG.info(message)
        if not warned:  # which says the same
            say(message)
    for warning in warned:
        _warn(warning)


def isometry_step(optimizer: torch.optim.Optimizer, updates: int) -> tuple[str, list[str]]:
    """Returns the strength and the half-life of AdamO's step in words, and warnings; nothing for other optimizers."""
    if not isinstance(optimizer, AdamO):
        return "", []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        half_life = optimizer.half_life(planned_updates=updates)
    strengths = sorted({group["iso_lambda"] for group in optimizer.param_groups if group["isometric"]})
    acts = "never" if math.isinf(half_life) else f"in {half_life:,.0f} updates"
    given = ", ".join(f"{strength:.3g}" for strength in strengths) or "no isometric weight"
    message = f"AdamO halves a deviation from isometry {acts}; {updates:,} are planned (iso_lambda {given})"
    return message, [str(warning.message) for warning in caught]


def _idle(config: RunConfig, parts: Parts) -> dict[str, str]:
    """Returns the methods that the planned run is too short for, each with a sentence that says so."""
    updates = planned_updates(config, parts.sequence)
    return parts.agent.methods.idle(updates, switches=len(parts.sequence.visits) - 1)


def methods_of(config: RunConfig, parts: Parts) -> dict[str, dict[str, Any]]:
    """Returns by method its `boundary`, and whether the planned run is long enough for it: `acts`."""
    made, idle = parts.agent.methods.by_name, _idle(config, parts)
    return {name: {"boundary": made[name].boundary, "acts": name not in idle} for name in config.method}


def _warn(message: str) -> None:
    LOG.warning(message)
    say(message, style="yellow")


def _description(config: RunConfig, parts: Parts) -> Description:
    """Returns hyper-parameters, configuration and the layout of charts, for the loggers."""
    numbers = {
        f"agent.{key}": value for key, value in config.agent.items() if isinstance(value, (int, float))
    }
    hyperparameters = {
        "agent": config.agent["name"],
        "sequence": config.sequence.name,
        "network": config.network["activation"],
        "optimizer": config.optimizer["name"],
        "method": "+".join(config.method) or "none",
        "seed": config.seed,
        **numbers,
    }
    charts = dashboard.layout(parts.sequence, list(parts.agent.learner.networks))
    return Description(hyperparameters, OmegaConf.to_yaml(OmegaConf.structured(config)), charts)
