"""What is in on_another_device.py, in a process of its own: torch cannot fork any more once it has such a device."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_on_another_device():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(HERE / "on_another_device.py"),
    ]
    process = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True, timeout=500)
    assert process.returncode == 0, process.stdout[-3000:]
    assert " passed" in process.stdout
