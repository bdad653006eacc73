"""Ten thousand cells: listing and reporting stay under a minute of one core and 2 GiB. Minutes to write: `-m slow`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.experiments.report.synthetic import write_grid

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """18 arms and 2 references x 10 sequences x 50 seeds, summaries of 50 kB as real ones have."""
    arms = {f"arm {n}": 0.005 * n for n in range(18)}
    return write_grid(
        tmp_path_factory.mktemp("large"), arms, sequences=10, seeds=50, visits=10, diagnostics=70
    )


def cost_of(*words: str) -> tuple[float, float]:
    """(seconds of processor time, MiB at most) of a command: a busy machine does not count."""
    with subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


@pytest.mark.slow
@pytest.mark.parametrize("words", [("-m", "isorl", "list", "grids"), ("report.py",)], ids=["list", "report"])
def test_ten_thousand_cells(grid, words, record_property):
    seconds, mebibytes = cost_of(*words, str(grid))
    record_property("seconds", seconds)
    record_property("MiB", mebibytes)
    print(f"\n{' '.join(words)}: {seconds:.1f} s, {mebibytes:,.0f} MiB")
    assert seconds < 60
    assert mebibytes < 2048
