"""What `sequence=atari` and `sequence=env` play, from the words of the command line: OmegaConf's resolvers.

`game=[Pong,Breakout] agent_steps=1_000_000` become the tasks, the name and the hyper-parameters of a sequence, so that
its folder, its label and its source say what is played.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from omegaconf import ListConfig, OmegaConf

from isorl.configs.errors import UserError

KEYS = {
    "game": "sequence=atari",
    "env": "sequence=env",
    "agent_steps": "sequence=atari and sequence=env",
    "kwargs": "sequence=env",
    "wrappers": "sequence=env",
}
"""Word that says what is played -> the sequences that it belongs to. A run holds its tasks instead."""
FAMILIES = {
    "atari": "ALE/",
    "minatar": "MinAtar/",
    "dmc": "dm_control/",
    "metaworld": "isorl/MetaWorld-",
    "nine_rooms": "isorl/NineRooms",
    "falling": "isorl/(Catch|Rain|Forager)",
    "digits": "isorl/Digits",
    "mnist": "isorl/(Fashion)?MNIST",
    "cifar": "isorl/CIFAR",
    "lunar": "LunarLander",
    "mujoco": "(isorl/Slippery)?(Ant|HalfCheetah|Hopper|Humanoid|Inverted|Pusher|Reacher|Swimmer|Walker2d)",
    "classic": "(CartPole|Acrobot|MountainCar)-v",
}
"""File in configs/sequence/family -> how the ids of its environments begin."""


def register_resolvers() -> None:
    """Makes ${name_of:...}, ${tasks_of:...} and ${family_of:...} known to OmegaConf."""
    for resolver in (name_of, tasks_of, family_of):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)


def name_of(beginning: str, names: Any, agent_steps: Any) -> str:
    """Returns a name for folders and reports: what is played, and how long."""
    parts = [beginning, *_listed(names), str(agent_steps)]
    return "_".join(re.sub(r"[^\w.-]+", "-", part) for part in parts)


def tasks_of(
    pattern: str, names: Any, agent_steps: Any, kwargs: Any = None, wrappers: Any = None
) -> ListConfig:
    """Returns a task for each name, put into `pattern` at {}."""
    more = {"kwargs": kwargs or {}, "wrappers": wrappers or []}
    tasks = [
        {"env": pattern.replace("{}", name), "agent_steps": agent_steps, **more} for name in _listed(names)
    ]
    return OmegaConf.create(tasks)


def family_of(names: Any) -> Any:
    """Returns the hyper-parameters of the family that all environments `names` belong to; {} where there is none."""
    families = {
        next((family for family, begins in FAMILIES.items() if re.match(begins, name)), None)
        for name in _listed(names)
    }
    family = families.pop() if len(families) == 1 else None
    if family is None:
        return OmegaConf.create({})
    return OmegaConf.load(Path(__file__).parent / "sequence" / "family" / f"{family}.yaml").tuning


def _listed(names: Any) -> list[str]:
    listed = list(names) if isinstance(names, list | ListConfig) else [names]
    if not listed or not all(isinstance(name, str) and name for name in listed):
        raise UserError(f"'{names}' names nothing to play; give a name or a list of names.")
    return listed
