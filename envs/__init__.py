"""The streams of tasks: sequences of Gymnasium and Atari environments behind one stable-baselines3 VecEnv.

Importing it registers this project's own environments with Gymnasium: isorl/NineRooms-v0, isorl/Catch-v0,
isorl/Rain-v0, isorl/Forager-v0, isorl/Shifted-v0, isorl/SlipperyAnt-v0, a classification stream for each data set, such
as isorl/Digits-v0, and isorl/Stream-v0, which plays a whole sequence for agents of other libraries.
"""

import gymnasium

from isorl.envs.sequence import Sequence, Task, Visit
from isorl.envs.switching import SwitchingVecEnv

for _name, _module in (
    ("NineRooms", "nine_rooms"),
    ("Catch", "falling"),
    ("Rain", "falling"),
    ("Forager", "forager"),
):
    gymnasium.register(
        id=f"isorl/{_name}-v0",
        entry_point=f"isorl.envs.{_module}:{_name}Env",
        vector_entry_point=f"isorl.envs.{_module}:{_name}",
    )
gymnasium.register(
    id="isorl/Stream-v0",
    entry_point="isorl.envs.continual_env:ContinualEnv",
    vector_entry_point="isorl.envs.continual_env:ContinualVectorEnv",
)
gymnasium.register(id="isorl/Shifted-v0", entry_point="isorl.envs.shifted:Shifted")
gymnasium.register(
    id="isorl/SlipperyAnt-v0", entry_point="isorl.envs.slippery_ant:SlipperyAnt", max_episode_steps=1_000
)
for _name, _data in (
    ("Digits", "digits"),
    ("MNIST5000", "mnist5000"),
    ("MNIST", "mnist"),
    ("FashionMNIST", "fashion_mnist"),
    ("CIFAR10", "cifar10"),
    ("CIFAR100", "cifar100"),
):
    gymnasium.register(
        id=f"isorl/{_name}-v0",
        entry_point="isorl.envs.stream:StreamEnv",
        vector_entry_point="isorl.envs.stream:Stream",
        kwargs={"data": _data},
    )

__all__ = ["Sequence", "SwitchingVecEnv", "Task", "Visit"]
