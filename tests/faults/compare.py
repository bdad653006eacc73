"""Two finished runs: the same to the last bit, the clock left out?"""

import json
from pathlib import Path

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from isorl.experiments.run.experiment import build
from isorl.experiments.run.folder import RunFolder
from isorl.experiments.run.replay_log import PLAIN, ReplayLog

ANOTHER_PLACE = ("/run/records", "/replay")
"""Sizes and numbers of files, which depend on where a run was cut."""


def differences(whole: Path, resumed: Path) -> list[str]:
    """Where the checkpoints, replay buffers and records of two runs differ; nothing if they are equal."""
    one, other = (dict(_leaves(_checkpoint(folder))) for folder in (whole, resumed))
    found = [f"checkpoint{path} is in one alone" for path in one.keys() ^ other.keys()]
    found += [f"checkpoint{path}" for path in one.keys() & other.keys() if not _same(one[path], other[path])]
    one, other = _replay(whole), _replay(resumed)
    found += [f"replay {name}" for name in one if not np.array_equal(one[name], other[name])]
    for read in (metrics, events):
        left, right = read(whole), read(resumed)
        if left != right:
            odd = [row for row in left if row not in right][:1] + [row for row in right if row not in left][
                :1
            ]
            found.append(
                f"{read.__name__}: {len(left)} and {len(right)} records; {odd or 'in another order'}"
            )
    return found


def metrics(folder: Path) -> list[dict]:
    """The lines of metrics.jsonl."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if not record["key"].startswith("time/")]


def events(folder: Path) -> list[tuple]:
    """The scalars of TensorBoard, by tag and step: files of one second are read in the order of their names."""
    read = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in sorted(read.Tags()["scalars"]) if not tag.startswith("time/")]
    rows = [(tag, event.step, event.value) for tag in tags for event in read.Scalars(tag)]
    return sorted(rows, key=lambda row: row[:2])


def _checkpoint(folder: Path) -> dict:
    return torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)


def _leaves(value, path=""):
    if path in ANOTHER_PLACE or "seconds" in path:
        return
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _leaves(entry, f"{path}/{key}")
    elif isinstance(value, (list, tuple)):
        for number, entry in enumerate(value):
            yield from _leaves(entry, f"{path}/{number}")
    else:
        yield path, value


def _same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.numpy().tobytes() == other.numpy().tobytes()
    return one == other or (one != one and other != other)


def _replay(folder: Path) -> dict[str, np.ndarray]:
    """The replay buffer of the newest checkpoint, from its files alone."""
    noted = _checkpoint(folder)["replay"]
    if noted is None:
        return {}
    parts = build(RunFolder(folder).load_config())
    replay = parts.agent.replay_buffer
    ReplayLog(folder, replay).load(noted)
    parts.env.close()
    names = ("observations", *PLAIN, "next_observations")
    return {name: getattr(replay, name)[: replay.size()] for name in names}
