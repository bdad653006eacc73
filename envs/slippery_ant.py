"""SlipperyAnt: Gymnasium's Ant-v5 on ground of another friction.

From Dohare et al. 2024 (Loss of Plasticity in Deep Continual Learning, Nature 632), where the friction changes
between 0.02 and 2.
"""

from __future__ import annotations

from typing import Any

from gymnasium.envs.mujoco.ant_v5 import AntEnv
from gymnasium.utils import EzPickle


class SlipperyAnt(AntEnv):
    """Is an Ant-v5 whose sliding friction is `friction` for every geometry.

    Args:
        friction: sliding friction coefficient; Ant-v5's own ground has 1.
        kwargs: arguments of Ant-v5.
    """

    def __init__(self, friction: float = 1.0, **kwargs: Any) -> None:
        if not friction > 0:
            raise ValueError(f"'friction' is {friction}; it must be above 0.")
        super().__init__(**kwargs)
        EzPickle.__init__(self, friction=friction, **kwargs)
        # MuJoCo takes the larger friction of the two geometries in contact, so the ground alone would not slip
        self.model.geom_friction[:, 0] = friction
