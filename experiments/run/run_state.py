"""Holds what a run gathers besides the agent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from isorl.experiments.run.returns import Returns


@dataclass
class RunState:
    """Holds what a run gathers; saved in its checkpoints."""

    returns: Returns
    evaluations: list[list[float]] = field(default_factory=list)  # [visit][task]
    diagnostics: list[dict[str, float]] = field(default_factory=list)  # at the end of each visit
    seconds: float = 0.0  # of training, in earlier parts of the run; its share where runs share a process
    measuring_seconds: float = 0.0
    together: set[int] = field(default_factory=set)  # as how many runs it shared its process; 0: unknown
    records: dict[str, int] = field(default_factory=dict)  # file -> bytes of it that were written
    previous: dict[str, Tensor] = field(default_factory=dict)  # weights at the last measurement, for churn

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps: plain values."""
        return {
            "returns": self.returns.state_dict(),
            "evaluations": self.evaluations,
            "diagnostics": self.diagnostics,
            "seconds": self.seconds,
            "measuring_seconds": self.measuring_seconds,
            "together": sorted(self.together),
            "records": self.records,
            "previous": self.previous,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` returned."""
        self.returns.load_state_dict(state["returns"])
        self.evaluations, self.diagnostics = list(state["evaluations"]), list(state["diagnostics"])
        self.seconds, self.measuring_seconds = float(state["seconds"]), float(state["measuring_seconds"])
        self.together = set(state.get("together", [0]))  # checkpoints of earlier versions do not say
        self.previous = dict(state.get("previous", {}))  # checkpoints of earlier versions have none
        self.records = {str(name): int(size) for name, size in state["records"].items()}
