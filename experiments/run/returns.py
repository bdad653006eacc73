"""Gathers raw returns of training episodes, by visit."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from isorl.envs.scores import normalised
from isorl.envs.sequence import Visit

LAST_PART = 0.2
"""Share of the visit's episodes, its last, over which `end` is the mean."""


@dataclass
class VisitReturns:
    """Holds the returns of the episodes that ended in one visit."""

    visit: Visit
    at: list[int] = field(default_factory=list)  # agent step at which each episode ended
    returns: list[float] = field(default_factory=list)

    @property
    def mean(self) -> float:
        """The mean over all episodes of the visit; NaN where none ended."""
        return float(np.mean(self.returns)) if self.returns else float("nan")

    @property
    def end(self) -> float:
        """The mean over the last fifth of the visit's episodes; NaN where none ended."""
        last = math.ceil(LAST_PART * len(self.returns))
        return float(np.mean(self.returns[-last:])) if last else float("nan")

    def row(self) -> dict[str, Any]:
        """Returns the visit's entry in summary.json."""
        return {
            "visit": self.visit.number,
            "task": self.visit.task.name,
            "task_index": self.visit.task.index,
            "start": self.visit.start,
            "agent_steps": self.visit.agent_steps,
            "episodes": len(self.returns),
            "mean": self.mean,
            "end": self.end,
            "mean_score": normalised(self.visit.task.env, self.mean),
            "end_score": normalised(self.visit.task.env, self.end),
        }


class Returns:
    """Gathers the episodes that `infos` report."""

    def __init__(self, visits: Iterable[Visit]) -> None:
        self.by_visit = [VisitReturns(visit) for visit in visits]
        self.recent: list[float] = []  # since the last row of training curves

    def add(self, infos: list[dict[str, Any]], agent_step: int) -> None:
        """Takes what one vector step reports."""
        for info in infos:
            episode = info.get("episode")
            if episode is not None and "visit" in episode:
                visit = self.by_visit[episode["visit"]]
                visit.at.append(agent_step)
                visit.returns.append(float(episode["r"]))
                self.recent.append(float(episode["r"]))

    def take_recent(self) -> float | None:
        """Returns the mean return of the episodes since the last call, None if there were none."""
        mean = float(np.mean(self.recent)) if self.recent else None
        self.recent = []
        return mean

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps: plain values."""
        return {
            "at": [visit.at for visit in self.by_visit],
            "returns": [visit.returns for visit in self.by_visit],
            "spans": [[visit.visit.start, visit.visit.end] for visit in self.by_visit],
            "recent": self.recent,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` returned, of this plan or of one with fewer visits."""
        self.recent = list(state["recent"])
        saved = list(zip(state["at"], state["returns"], state["spans"], strict=True))
        for visit, (at, returns, (start, end)) in zip(self.by_visit[: len(saved)], saved, strict=True):
            visit.at, visit.returns = list(at), list(returns)
            visit.visit = replace(visit.visit, start=start, end=end)
