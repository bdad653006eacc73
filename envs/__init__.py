"""The streams of tasks: sequences of Gymnasium and Atari environments behind one stable-baselines3 VecEnv."""

import gymnasium

from envs.sequence import Sequence, Task, Visit
from envs.switching import SwitchingVecEnv

gymnasium.register(
    id="isorl/NineRooms-v0",
    entry_point="envs.nine_rooms:NineRooms",
    vector_entry_point="envs.nine_rooms:NineRoomsVectorEnv",
)

__all__ = ["Sequence", "SwitchingVecEnv", "Task", "Visit"]
