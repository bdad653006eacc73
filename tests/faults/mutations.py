"""Damaged and hostile checkpoints: each is refused with one message or opened as it was; none runs code."""

import io
import pickle
import random
import signal
import zipfile
from collections import Counter
from pathlib import Path

import torch

from isorl.configs import UserError
from isorl.experiments.run import checkpoint_file
from isorl.experiments.run.checkpoint_manager import CheckpointManager
from isorl.experiments.run.experiment import build
from isorl.experiments.run.returns import Returns
from isorl.experiments.run.run_state import RunState
from tests.faults.runs import configured, finish

WORDS = ["sequence=nine_rooms-smoke", "agent=dqn", "agent.buffer_size=400", "diagnostics.every=0", "checkpoint.keep=1",
         "evaluation.episodes=0", "network.widths=[8,8]"]  # fmt: skip
SECONDS = 20
"""After which an answer counts as a hang."""
ODD = (None, -1, 10**18, float("nan"), "", "x" * 999, [], {}, [[]], True, b"x", torch.zeros(0), torch.ones(3, 3),
       torch.tensor(float("nan")), {"a": 1},
       torch.zeros(2, dtype=torch.int8))  # fmt: skip


class Executed:
    """What a pickle of an attacker is made of."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def mutate(folder: Path, count: int, seed: int) -> Counter:
    """How many were refused and how many opened.

    Raises:
        AssertionError: code ran, or a bit-flipped file was opened as something else.
    """
    torch.set_num_threads(1)
    run, chance, counts = folder / "run", random.Random(seed), Counter()
    finish(WORDS, run)
    config = configured(WORDS, run)
    parts = build(config)
    path = run / "checkpoint.pt"
    original = path.read_bytes()
    state, trap = checkpoint_file.read(path), folder / "executed"
    before = signal.signal(signal.SIGALRM, _hang)
    try:
        for _ in range(count):
            kind = chance.choice(list(KINDS))
            path.write_bytes(KINDS[kind](original, state, chance, trap))
            signal.alarm(SECONDS)
            opened = _opens(parts, config, run)
            signal.alarm(0)
            counts[f"{kind}: {'opened' if opened else 'refused'}"] += 1
            assert not trap.exists(), f"{kind}: code was executed"
            if opened and kind in ("bits", "cut", "bytes"):
                assert _same(checkpoint_file.read(path), state), f"{kind}: opened as something else"
    finally:
        signal.signal(signal.SIGALRM, before)
        parts.env.close()
    return counts


def _opens(parts, config, run) -> bool:
    from isorl.experiments.run.folder import RunFolder

    keeper = CheckpointManager(RunFolder(run), config.checkpoint, parts.agent)
    try:
        return keeper.load(RunState(Returns(parts.sequence.visits)))
    except UserError:
        return False


def _hang(number, frame):
    raise AssertionError(f"no answer after {SECONDS} s")


def _bits(original, state, chance, trap):
    content = bytearray(original)
    for _ in range(chance.choice((1, 1, 8, 64))):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return bytes(content)


def _cut(original, state, chance, trap):
    return original[: chance.randrange(len(original))]


def _bytes(original, state, chance, trap):
    begin, size = chance.randrange(len(original)), chance.randrange(1, 2000)
    return original[:begin] + chance.randbytes(size) + original[begin + chance.choice((0, size)) :]


def _value(original, state, chance, trap):
    """A value somewhere inside is replaced, removed, or swapped with another."""
    copy = checkpoint_file.to_bytes(state)
    changed = torch.load(io.BytesIO(copy), weights_only=True)
    place, key = _somewhere(changed, chance)
    act = chance.random()
    if act < 0.6:
        place[key] = chance.choice(ODD)
    elif act < 0.8:
        del place[key]
    else:
        other, its_key = _somewhere(changed, chance)
        place[key], other[its_key] = other[its_key], place[key]
    return checkpoint_file.to_bytes(changed)


def _somewhere(state, chance):
    """(container, key) of a random value, often deep inside."""
    place = state
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = chance.choice(keys)
        inner = place[key]
        if not (isinstance(inner, (dict, list)) and inner) or chance.random() < 0.15:
            return place, key
        place = inner


def _hostile(original, state, chance, trap):
    """A pickle that would run code: alone, inside torch's zip, or as a value."""
    act = chance.randrange(3)
    if act == 0:
        return pickle.dumps({"policy": Executed(trap)})
    file = io.BytesIO()
    if act == 1:
        torch.save({**state, chance.choice(list(state)): Executed(trap)}, file)
        return file.getvalue()
    with zipfile.ZipFile(io.BytesIO(original)) as archive_, zipfile.ZipFile(file, "w") as changed:
        for entry in archive_.infolist():
            is_pickle = entry.filename.endswith("data.pkl")
            changed.writestr(entry, pickle.dumps(Executed(trap)) if is_pickle else archive_.read(entry))
    return file.getvalue()


KINDS = {"bits": _bits, "cut": _cut, "bytes": _bytes, "value": _value, "hostile": _hostile}


def _same(one, other) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) or bool(torch.isnan(one).any())
    return one == other or one != one
