"""Names the sequences and arms of runs from several places, so that nothing is merged that differs.

Runs of this project are told apart by their configurations: where one name stands for different settings, the settings
that differ are added to it. Logs of other programs hold no settings, so their folders must do.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium

from isorl.experiments.grid.cell import NOT_PART_OF_A_CELL, NOT_PART_OF_A_SEQUENCE
from isorl.experiments.report.runs import Run

MAX_NAMED = 3
"""Settings that are added to a name at most."""
MAX_LENGTH = 30
"""Characters of a value there; names become folders, too."""
NO_ENVIRONMENT = "environment not named"
"""The sequence of logs of which no folder names an environment."""
ALGORITHMS = {"a2c", "ars", "crossq", "ddpg", "dqn", "maskableppo", "ppo", "ppolstm", "qrdqn", "recurrentppo", "sac",
              "td3", "tqc", "trpo"}  # fmt: skip
"""Names that stable-baselines3 and sb3-contrib give to logs, before the number of the run."""


@dataclass(frozen=True)
class Group:
    """Holds runs that differ in their seeds alone, and the configuration of one of them."""

    runs: Sequence[Run]
    config: Mapping[str, Any]

    @property
    def sequence(self) -> str:
        """The name of the sequence that they learn."""
        return self.runs[0].sequence

    @property
    def arm(self) -> str:
        """The name of what is compared."""
        return self.runs[0].arm

    def sequence_settings(self) -> dict[str, str]:
        """Returns what the sequence is, by dotted keys."""
        content = self.config["sequence"]
        return _flat({key: value for key, value in content.items() if key not in NOT_PART_OF_A_SEQUENCE})

    def arm_settings(self) -> dict[str, str]:
        """Returns everything else that can change a result, by dotted keys."""
        left_out = {"seed", "sequence", *NOT_PART_OF_A_CELL}
        content = {key: value for key, value in self.config.items() if key not in left_out}
        return _flat({**content, "methods": list(content["method"])})  # which act in this order


def _flat(value: Any, key: str = "") -> dict[str, str]:
    if isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
        value = dict(enumerate(value))
    if not isinstance(value, dict) or not value:
        return {key: json.dumps(value, default=str).replace('"', "")}
    parts = (_flat(value[name], f"{key}.{name}" if key else str(name)) for name in sorted(value, key=str))
    return {name: one for part in parts for name, one in part.items()}


def tell_apart(groups: Sequence[Group]) -> list[str]:
    """Adds to a name of a sequence or an arm, where groups of that name differ, the settings that do.

    Returns:
        A sentence about it; nothing where every name is of one thing.
    """
    renamed = _rename(groups, "sequence", lambda group: group.sequence, Group.sequence_settings)
    renamed += _rename(groups, "arm", lambda group: (group.sequence, group.arm), Group.arm_settings)
    if not renamed:
        return []
    return [
        "Runs of one name whose configurations differ are told apart by the settings in brackets: "
        + ", ".join(f"'{name}'" for name in dict.fromkeys(renamed))
        + "."
    ]


def _rename(
    groups: Iterable[Group],
    attribute: str,
    name_of: Callable[[Group], Hashable],
    settings_of: Callable[[Group], dict[str, str]],
) -> list[str]:
    """Returns the names that stood for different settings."""
    alike: dict[Hashable, list[Group]] = defaultdict(list)
    for group in groups:
        alike[name_of(group)].append(group)
    renamed = []
    for same in alike.values():
        settings = [tuple(settings_of(group).items()) for group in same]
        kinds = list(dict.fromkeys(settings))
        if len(kinds) > 1:
            renamed.append(getattr(same[0], attribute))
            names = dict(zip(kinds, _names(renamed[-1], [dict(kind) for kind in kinds]), strict=True))
            for group, own in zip(same, settings, strict=True):
                for run in group.runs:
                    setattr(run, attribute, names[own])
    return renamed


def _names(name: str, kinds: Sequence[dict[str, str]]) -> list[str]:
    """One name for each of several settings."""
    keys = [
        key
        for key in {key: None for kind in kinds for key in kind}
        if len({kind.get(key) for kind in kinds}) > 1
    ]
    names = []
    for kind in kinds:
        shown = [f"{key}={_short(kind.get(key, 'none'))}" for key in keys[:MAX_NAMED]]
        names.append(f"{name} ({', '.join(shown)}{', ...' if len(keys) > MAX_NAMED else ''})")
    return [f"{one} #{number}" if names.count(one) > 1 else one for number, one in enumerate(names, start=1)]


def _short(value: str) -> str:
    return value if len(value) <= MAX_LENGTH else f"{value[:MAX_LENGTH]}..."


@dataclass(frozen=True)
class LogName:
    """Names a log of another program: its sequence, its arm, and the number of the run within the arm."""

    sequence: str
    arm: str
    number: int


def name_logs(logs: Mapping[Path, Path]) -> dict[Path, LogName]:
    """Returns a name for each log, taken from its path.

    The first folder that names an environment of Gymnasium is the sequence; the others are the arm, without the number
    that stable-baselines3 appends for each run (PPO_1, PPO_2). No two logs get one name.

    Args:
        logs: folder of the log -> the path below which its name begins.
    """
    if not logs:
        return {}
    root = Path(os.path.commonpath([path.absolute() for path in logs.values()]))
    places = {log: log.absolute().relative_to(root).parts or (log.absolute().name,) for log in logs}
    numbered = _numbered(list(places.values()))
    names = {log: _name(numbered.get(parts, (parts, 0)), root.name) for log, parts in places.items()}
    taken = list(names.values())
    return {
        log: LogName(name.sequence, "/".join(places[log]), 0) if taken.count(name) > 1 else name
        for log, name in names.items()
    }


def _numbered(places: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], tuple[tuple[str, ...], int]]:
    """Those places that end in the number of a run -> (the place without it, the number).

    `width_64` and `width_256` are no runs of one arm. So numbers count that follow the name of an algorithm or of an
    environment, or that are 1, 2, ... without a gap.
    """
    families: dict[tuple[str, ...], dict[tuple[str, ...], int]] = defaultdict(dict)
    for *folders, last in places:
        if match := re.fullmatch(r"(.+)_(\d+)", last):
            families[*folders, match[1]][*folders, last] = int(match[2])
    return {
        place: (family, number)
        for family, members in families.items()
        if family[-1].lower() in ALGORITHMS
        or _is_environment(family[-1])
        or sorted(members.values()) == list(range(1, len(members) + 1))
        for place, number in members.items()
    }


def _name(place: tuple[tuple[str, ...], int], root: str) -> LogName:
    parts, number = place
    at = next((index for index, part in enumerate(parts) if _is_environment(part)), None)
    if at is None:
        return LogName(NO_ENVIRONMENT, "/".join(parts), number)
    return LogName(parts[at], "/".join(parts[:at] + parts[at + 1 :]) or root, number)


def _is_environment(part: str) -> bool:
    """Whether a folder is called CartPole-v1, ALE-Pong-v5 or, of an environment that is registered, CartPole."""
    return bool(re.fullmatch(r".+-v\d+", part)) or part.lower() in _environments()


def _environments() -> set[str]:
    return {spec.name.lower() for spec in gymnasium.registry.values()}
