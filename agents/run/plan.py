"""dry_run=true: the schedule, the spaces, the units and the memory of a run that is not started."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from agents.options import agent_options
from agents.run.experiment import build
from configs import RunConfig


def show(config: RunConfig) -> None:
    """Prints what `config` would run.

    Raises:
        UserError: whatever in `config` cannot work.
    """
    parts = build(config)
    sequence, console = parts.sequence, Console()
    table = Table(title=f"{sequence.name}: {len(sequence.tasks)} tasks, {len(sequence.visits)} visits")
    for column in ("visit", "task", "environment", "agent steps", "frames", "from", "to"):
        table.add_column(column, justify="left" if column in ("task", "environment") else "right")
    for visit in sequence.visits:
        task = visit.task
        frames = visit.agent_steps * task.frame_skip if task.is_atari else None
        numbers = [
            f"{visit.agent_steps:,}",
            "" if frames is None else f"{frames:,}",
            f"{visit.start:,}",
            f"{visit.end:,}",
        ]
        table.add_row(str(visit.number + 1), task.name, task.env, *numbers)
    console.print(table)
    options = agent_options(config)
    replay = getattr(parts.agent, "replay_buffer", None)
    facts = {
        "observations": parts.switching.common.observation,
        "actions": parts.switching.common.action,
        "environment copies": options.n_envs,
        "agent steps": f"{sequence.agent_steps:,}",
        "optimizer steps": f"{options.planned_updates(sequence.agent_steps):,}",
        "parameters": f"{sum(p.numel() for p in parts.agent.policy.parameters()):,}",
        "replay": "none" if replay is None else f"{_bytes(replay) / 2**20:,.0f} MiB when full",
        "device": parts.agent.device,
        "source": config.sequence.source or "not given",
    }
    for name, value in facts.items():
        console.print(f"{name:>20}  {value}", highlight=False)
    parts.env.close()


def _bytes(replay: object) -> int:
    return sum(value.nbytes for value in vars(replay).values() if hasattr(value, "nbytes"))
