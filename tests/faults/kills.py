"""SIGKILL at random moments: every run is resumed and ends as one that was left alone, to the last bit."""

import random
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

import torch

import isorl.experiments.run.experiment  # noqa: F401  imported before processes are forked
from tests.faults.compare import differences
from tests.faults.runs import CASES, begin, finish


def kill_and_resume(folder: Path, kills: int, seed: int, names: list[str] | None = None) -> Counter:
    """`kills` kills over the cases in turn; some runs are killed more than once.

    Raises:
        AssertionError: a run that cannot be resumed, or that ends otherwise than the one that was left alone.
    """
    torch.set_num_threads(1)
    chance, done = random.Random(seed), Counter()
    names = names or list(CASES)
    whole = {name: _whole(folder, name) for name in names}
    while done["kills"] < kills:
        name = names[done["runs"] % len(names)]
        path, (reference, seconds) = folder / "killed", whole[name]
        moments = [chance.uniform(0, 1.1 * seconds) for _ in range(chance.choice((1, 1, 2)))]
        for moment in moments:
            done["kills"] += _kill(CASES[name], path, moment)
        if not (path / "summary.json").exists():
            finish(CASES[name], path)
        found = differences(reference, path)
        assert not found, f"{name}, seed {seed}, killed after {moments} s: {found}"
        shutil.rmtree(path)
        done["runs"] += 1
        print(f"\r{done['kills']} of {kills} kills, {done['runs']} runs", end="", file=sys.stderr, flush=True)
    return done


def _whole(folder: Path, name: str) -> tuple[Path, float]:
    """The run left alone, and its seconds."""
    path, begun = folder / name.replace(" ", "-"), time.monotonic()
    finish(CASES[name], path)
    return path, time.monotonic() - begun


def _kill(words: list[str], path: Path, moment: float) -> bool:
    """Whether the run was still going when it was killed."""
    if (path / "summary.json").exists():
        return False
    process = begin(words, path)
    process.join(moment)
    killed = process.is_alive()
    process.kill()
    process.join()
    return killed
