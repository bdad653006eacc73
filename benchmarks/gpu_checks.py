"""Every check that needs a CUDA device, in one call: `python -m benchmarks.gpu_checks`.

Runs the tests marked gpu, then the benchmarks of plasticity and of speed on the GPU. Exits non-zero if anything fails,
also where there is no device: a check that was not run has not passed.
"""

from __future__ import annotations

import subprocess
import sys

import torch

CHECKS = (
    ["-m", "pytest", "-m", "gpu", "-q"],
    ["-m", "benchmarks.plasticity", "--gpu", *sys.argv[1:]],
    ["-m", "benchmarks.speed", "--gpu", *sys.argv[1:]],
)


def main() -> int:
    """Runs all checks, whatever the outcome of the first."""
    if not torch.cuda.is_available():
        print("no CUDA device: nothing was checked", file=sys.stderr)
        return 2
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}", flush=True)
    failed = [command for command in CHECKS if subprocess.run([sys.executable, *command]).returncode]
    for command in failed:
        print(f"failed: {' '.join(command)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
