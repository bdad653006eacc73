"""An environment, a method, a metric and a network of one's own: importing this file registers them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from isorl.plasticity import NetworkSpec
from isorl.plasticity.diagnostics import Probe, metric
from isorl.plasticity.methods import METHODS, Batch, Learner, Method
from isorl.plasticity.networks import NETWORKS


class Corridor(gymnasium.Env):
    """Walk to a goal at one end of a corridor; every step costs 0.1, the goal gives 1.

    Args:
        cells: length of the corridor; the walk begins in the middle.
        goal: "left" or "right".
        render_mode: "rgb_array" for videos.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, cells: int = 9, goal: str = "right", render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.cells, self.goal = cells, 0 if goal == "left" else cells - 1
        self.observation_space = spaces.Box(0.0, 1.0, (cells,), np.float32)
        self.action_space = spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        """Begins in the middle."""
        super().reset(seed=seed)
        self.cell = self.cells // 2
        return self._observed(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Action 0 goes to the left, 1 to the right."""
        self.cell = int(np.clip(self.cell + (1 if action else -1), 0, self.cells - 1))
        there = self.cell == self.goal
        return self._observed(), 1.0 if there else -0.1, there, False, {}

    def render(self) -> np.ndarray:
        """(32, 32 * cells, 3): the goal green, the walker blue."""
        picture = np.full((32, 32 * self.cells, 3), 235, np.uint8)
        for cell, colour in ((self.goal, (46, 160, 67)), (self.cell, (31, 111, 235))):
            picture[:, 32 * cell : 32 * (cell + 1)] = colour
        return picture

    def _observed(self) -> np.ndarray:
        return np.eye(self.cells, dtype=np.float32)[self.cell]


gymnasium.register("Corridor-v0", entry_point=Corridor, max_episode_steps=50)


@METHODS.register("bounded_weights")
@dataclass
class BoundedWeights(Method):
    """Keeps every weight within `bound` times its largest initial one (Elsayed et al. 2024, arXiv 2407.01704).

    Attributes:
        bound: above 0; the paper tries 1 to 5.
    """

    bound: float = 3.0

    def start(self, learner: Learner) -> None:
        """Notes the largest weights."""
        self._limits = [
            (p, self.bound * float(p.detach().abs().max())) for _, p in learner.parameters() if p.ndim > 1
        ]

    def after_update(self, batch: Batch) -> None:
        """Clips."""
        with torch.no_grad():
            for parameter, limit in self._limits:
                parameter.clamp_(-limit, limit)


@metric(
    "weight_max",
    formula="max_i |theta_i| over all parameters",
    range="[0, inf)",
    healthy="stable",
    cost="free",
    paper="Elsayed et al. 2024, arXiv 2407.01704",
)
def weight_max(probe: Probe) -> dict[str, torch.Tensor]:
    """The largest parameter, which weight clipping bounds."""
    return {
        "": torch.stack([parameter.detach().abs().max() for parameter in probe.network.parameters()]).max()
    }


NETWORKS.register("small_tanh")(NetworkSpec(widths=(16, 16), activation="tanh"))
