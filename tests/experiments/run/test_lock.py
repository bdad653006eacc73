"""Two processes never write one folder."""

import subprocess
import sys
from pathlib import Path

import pytest

from isorl.configs import UserError
from isorl.experiments.run import experiment
from isorl.experiments.run.folder import RunFolder

ROOT = Path(__file__).parents[3]
HOLD = """
import sys, time
from isorl.experiments.run.folder import RunFolder
with RunFolder(sys.argv[1]).locked():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def held(tmp_path):
    """A folder that another process writes to; and that process."""
    folder = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    yield folder, holder
    holder.kill()
    holder.communicate()


def test_second_writer_is_refused_and_told_who_writes(held, configured):
    folder, holder = held
    config = configured("sequence=cartpole-smoke", f"run_dir={folder}")
    with pytest.raises(UserError, match=f"process {holder.pid} on"):
        experiment.start(config)
    assert [path.name for path in folder.iterdir()] == [".lock"]
    (folder / "config.yaml").touch()
    with pytest.raises(UserError, match=f"'{folder}' is in use"):
        experiment.resume(str(folder))


def test_lock_of_a_killed_process_is_free(held, configured):
    folder, holder = held
    holder.kill()
    holder.wait()
    with RunFolder(folder).locked():
        pass
    experiment.start(configured("sequence=cartpole-smoke", f"run_dir={folder}"))
    assert (folder / "summary.json").exists()
