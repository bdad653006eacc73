"""Shows by dry_run=true what a run would be: schedule, spaces, units, memory, expected time; nothing is started.

The time is measured: for two seconds an agent that is then thrown away trains on the first task, or as many agents
together as are to share a process.
"""

from __future__ import annotations

import itertools
import resource
from collections.abc import Sequence as Several
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from isorl.agents.batched import BatchedRuns
from isorl.agents.options import agent_options, network_spec, planned_updates
from isorl.agents.replay import FrameReplay
from isorl.configs import RunConfig, UserError
from isorl.envs.sequence import Sequence, Visit
from isorl.experiments import terminal
from isorl.experiments.run.experiment import Parts, build, isometry_step, methods_of
from isorl.experiments.run.replay_log import SEGMENTS
from isorl.plasticity.networks import describe_body

MAX_VISITS = 30
"""Visits that the table lists at most."""
TRIAL_SECONDS = 2.0


def show(config: RunConfig) -> None:
    """Prints what `config` would run.

    Raises:
        UserError: whatever in `config` cannot work.
    """
    console = terminal.console()
    if config.agent["name"] == "random":
        _show_schedule(Sequence.from_config(config.sequence, config.seed), console)
        console.print("A uniformly random agent plays every task for some seconds; nothing is learned.")
        return
    parts = build(config)
    _show_schedule(parts.sequence, console)
    facts = Table.grid(padding=(0, 2))
    facts.add_column(justify="right", no_wrap=True)
    for name, value in _facts(config, parts).items():
        facts.add_row(name, str(value))
    console.print(facts)
    parts.env.close()


def _show_schedule(sequence: Sequence, console: Console) -> None:
    console.print(_schedule(sequence))
    if len(sequence.visits) > MAX_VISITS:
        console.print(f"... and {len(sequence.visits) - MAX_VISITS} more visits")


def _schedule(sequence: Sequence) -> Table:
    table = Table(title=f"{sequence.name}: {len(sequence.tasks)} tasks, {len(sequence.visits)} visits")
    for column in ("visit", "task", "environment", "agent steps", "frames", "from", "to"):
        table.add_column(column, justify="left" if column in ("task", "environment") else "right")
    for visit in sequence.visits[:MAX_VISITS]:
        task = visit.task
        frames = f"{visit.agent_steps * task.frame_skip:,}" if task.is_atari else ""
        table.add_row(
            str(visit.number + 1),
            task.name,
            task.env,
            _length(visit),
            frames,
            f"{visit.start:,}",
            f"{visit.end:,}",
        )
    return table


def _length(visit: Visit) -> str:
    task, steps = visit.task, f"{visit.agent_steps:,}"
    if task.episodes is not None:
        return f"{task.episodes:,} episodes, at most {steps}"
    if task.return_threshold is not None:
        return f"until return {task.return_threshold:g}, at most {steps}"
    return steps


def _facts(config: RunConfig, parts: Parts) -> dict[str, Any]:
    options, sequence, common = agent_options(config), parts.sequence, parts.switching.common
    at_most = "at most " if any(task.may_end_early for task in sequence.tasks) else ""
    expected = _expected_time(parts, at_most)  # first, so that the memory is that of a run that learns
    updates = planned_updates(config, sequence)
    isometry, _ = isometry_step(parts.agent.policy.optimizer, updates)
    methods = ", ".join(
        f"{name} ({of['boundary']}{'' if of['acts'] else ', never acts in this run'})"
        for name, of in methods_of(config, parts).items()
    )
    return {
        "observations": common.observation,
        "actions": common.action,
        "switch": f"at {sequence.switch.replace('_', ' ')}, {'announced' if common.announced else 'hidden'}",
        "environment copies": options.n_envs,
        "agent steps": f"{at_most}{sequence.agent_steps:,}",
        "optimizer steps": f"{updates:,}",
        "optimizer": f"{config.optimizer['name']}, learning rate {config.agent['learning_rate']:g}",
        **({"isometry": isometry} if isometry else {}),
        **({"methods": methods} if methods else {}),
        "network": describe_body(common.observation.shape, network_spec(config)),
        "parameters": f"{sum(p.numel() for p in parts.agent.policy.parameters()):,}",
        "memory": _memory(parts.agent),
        "disk": disk(config, parts),
        "expected time": expected,
        "device": parts.agent.device,
        "source": config.sequence.source or "not given",
    }


def _expected_time(parts: Parts, at_most: str) -> str:
    try:
        speed = agent_steps_per_second([parts])
    except UserError:
        raise
    except Exception as error:  # of an environment or a method: what the run would be is shown all the same
        return f"not measured; on its first task, {type(error).__name__}: {terminal.explain(error)}"
    return (
        f"{at_most}{terminal.duration(parts.sequence.agent_steps / speed)} of training, at {speed:,.0f} agent steps "
        "per second (measured now on the first task); evaluations come on top"
    )


def agent_steps_per_second(runs: Several[Parts]) -> float:
    """Measures the speed of the whole training loop of `runs`, all together, which share this process."""
    batch, trial = BatchedRuns(), _Trial(any(getattr(parts.agent, "compile", False) for parts in runs))
    steps = batch.results([partial(_learn, parts.agent, batch, trial) for parts in runs])
    return trial.rounds * sum(steps) / trial.seconds


class _Trial:
    """Rounds of learning: one to warm up, then as many as fill TRIAL_SECONDS; none where the first has filled them.

    Runs that share a process make equally many: whichever ends a round first looks at the clock for all.

    Args:
        compiles: in the first round, which then never counts.
    """

    def __init__(self, compiles: bool) -> None:
        self._least = 2 if compiles else 1
        self._ends = [perf_counter()]  # the beginning, then the end of each round

    def over(self, number: int) -> bool:
        """Whether round `number`, counted from 1, was the last."""
        if number == len(self._ends):
            self._ends.append(perf_counter())
        return len(self._ends) > self._least and self.seconds >= TRIAL_SECONDS

    @property
    def rounds(self) -> int:
        """The number of rounds that count."""
        return max(len(self._ends) - 2, 1)

    @property
    def seconds(self) -> float:
        """The seconds that the rounds which count have taken."""
        return self._ends[-1] - self._ends[-1 - self.rounds]


def _learn(agent: Any, batch: BatchedRuns, trial: _Trial) -> int:
    """Lets `agent` learn until the trial is over; returns the agent steps of a round."""
    learns_at_once = agent.n_steps if hasattr(agent, "rollout_buffer") else agent.batch_size
    agent.learning_starts = 0  # DQN: measured with updates, not at its random beginning
    steps = learns_at_once * agent.n_envs
    with batch.member(agent):
        for number in itertools.count(1):
            agent.learn(steps, log_interval=None, reset_num_timesteps=number == 1)
            if trial.over(number):
                break
    return steps


def disk(config: RunConfig, parts: Parts) -> str:
    """Says what checkpoints take, the full replay buffer included."""
    agent: Any = parts.agent
    weights = sum(p.numel() * p.element_size() for p in agent.policy.parameters())
    state = 4 * weights / 2**20  # with gradients and Adam's two moments
    replay = getattr(agent, "replay_buffer", None)
    checkpoints = f"{config.checkpoint.keep} checkpoints of about {state:,.1f} MiB"
    if replay is None or not config.checkpoint.replay:
        return checkpoints
    seen: Any = agent.observation_space
    once = seen.shape[1:] if isinstance(replay, FrameReplay) else seen.shape
    steps = replay.buffer_size * agent.n_envs * (1 + 1 / SEGMENTS)
    full = steps * int(np.prod(once)) * seen.dtype.itemsize / 2**20
    return (
        f"{checkpoints}, and at most {full:,.0f} MiB for the full replay, compressed and written as it grows"
    )


def _memory(agent: Any) -> str:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    replay = getattr(agent, "replay_buffer", None)
    if replay is None:
        return f"about {peak:,.0f} MiB"
    full = sum(value.nbytes for value in vars(replay).values() if hasattr(value, "nbytes")) / 2**20
    return f"about {peak + full:,.0f} MiB, of which {full:,.0f} for the full replay"
