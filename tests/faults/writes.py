"""Every write of a run fails in turn, as on a full disk: the run ends clearly and can be resumed or begun again."""

import builtins
import errno
import io
import os
import shutil
from collections import Counter
from pathlib import Path

from isorl.experiments.run import experiment
from isorl.experiments.run.folder import CannotWrite
from tests.faults.compare import differences
from tests.faults.runs import configured

WORDS = ["sequence=nine_rooms-smoke", "agent=dqn", "agent.buffer_size=400", "diagnostics.every=0", "log_every=1000",
         "evaluation.episodes=0", "network.widths=[8,8]", "agent.learning_starts=200", "agent.gradient_steps=1",
         "agent.train_freq=16", "checkpoint.every=1000"]  # fmt: skip


class FullDisk:
    """Counts what changes files under `folder`; one of these calls, and every one after it, fails.

    Args:
        folder: where.
        at: number of the call that fails; None: none does.
        once: whether later calls succeed again.
    """

    def __init__(self, folder: Path, at: int | None, once: bool) -> None:
        self.folder, self.at, self.once, self.calls = str(folder), at, once, 0
        self._before = {(place, name): getattr(place, name) for place, name in self.PLACES}

    PLACES = (
        (builtins, "open"),
        (io, "open"),
        (os, "replace"),
        (os, "fsync"),
        (os, "link"),
        (os, "truncate"),
    )

    def __enter__(self):
        for (place, name), real in self._before.items():
            setattr(place, name, self._opening(real) if name == "open" else self._failing(real))
        return self

    def __exit__(self, *error):
        for (place, name), real in self._before.items():
            setattr(place, name, real)

    def spend(self) -> None:
        """One more call."""
        self.calls += 1
        if self.at is not None and (self.calls == self.at or (self.calls > self.at and not self.once)):
            raise OSError(errno.ENOSPC, "No space left on device", self.folder)

    def _failing(self, real):
        def call(*args, **kwargs):
            self.spend()
            return real(*args, **kwargs)

        return call

    def _opening(self, real):
        def call(path, mode="r", *args, **kwargs):
            file = real(path, mode, *args, **kwargs)
            if str(path).startswith(self.folder) and set(mode) & set("wax+") and ".lock" not in str(path):
                write = file.write

                def spending(content):
                    self.spend()
                    return write(content)

                try:
                    file.write = spending
                except AttributeError:  # a buffered file takes no attributes: its opening is counted
                    file.close()
                    self.spend()
                    return real(path, mode, *args, **kwargs)
            return file

        return call


def fail_each(folder: Path, every: int = 1) -> Counter:
    """Lets every `every`-th write of the run fail, for good and once.

    Raises:
        AssertionError: a run that ends otherwise than with CannotWrite, or that cannot be resumed to the same end.
    """
    whole = folder / "whole"
    with FullDisk(folder, None, False) as disk:
        experiment.start(configured(WORDS, whole))
    done = Counter(writes=disk.calls)
    for at in range(1, disk.calls + 1, every):
        for once in (False, True):
            path = folder / "full"
            done["ended clearly" if _ends_clearly(path, folder, at, once) else "went on"] += 1
            if not (path / "summary.json").exists():
                begun = (path / "config.yaml").exists()
                experiment.resume(str(path)) if begun else experiment.start(configured(WORDS, path))
            found = differences(whole, path)
            assert not found, f"write {at} failed{' once' if once else ''}: {found}"
            shutil.rmtree(path)
    return done


def _ends_clearly(path: Path, folder: Path, at: int, once: bool) -> bool:
    """Whether the run ended with CannotWrite; False where it came to its end all the same."""
    try:
        with FullDisk(folder, at, once):
            experiment.start(configured(WORDS, path))
    except CannotWrite:
        return True
    return False
