"""Every check that needs a CUDA device, in one call of so many minutes, with one file to bring home.

    python -m benchmarks.gpu_checks [--minutes 9] [--out gpu_checks.json] [--leanrl PATH]  # where the device is
    python -m benchmarks.gpu_checks --write gpu_checks.json                           # the docs' tables, anywhere

The tests marked gpu, what diagnostics and AdamO cost on the device, PPO and DQN on Atari beside stable-baselines3 (and
LeanRL, given a checkout), and how many runs a card bears. Each has a share of the time and is stopped at its end; what
it had measured by then counts, and the others go on after a failure. Exits non-zero if anything failed, also where
there is no device: a check that was not run has not passed.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import plasticity, speed

RUNS_ON_ONE_CARD = (1, 2, 4)
BUILDING_UP = 30
"""Seconds in which a contender of benchmarks/speed.py starts and compiles."""


@dataclass(frozen=True)
class Check:
    """A command whose outcome is kept.

    Attributes:
        name: of its entry.
        command: after the interpreter's name; "{json}" stands for the file that it writes, "{seconds}" for its time.
        share: of the time that is left when it begins.
    """

    name: str
    command: tuple[str, ...]
    share: float


def checks(device: str, options: argparse.Namespace) -> list[Check]:
    """Returns what is run, in this order: what says whether the rest is to be believed comes first."""
    gpu = ("--gpu",) if device == "cuda" else ()
    leanrl = (f"--leanrl={options.leanrl}",) if options.leanrl else ()
    timed = ("--json={json}", "--seconds={seconds}", "--rounds=5", *leanrl, *gpu)
    return [
        Check("tests", ("-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", *options.tests), 0.3),
        Check("plasticity", ("-m", "benchmarks.plasticity", "--json={json}", *gpu), 0.25),
        Check("speed: ppo_atari", ("-m", "benchmarks.speed", "ppo_atari", *timed), 0.45),
        Check("speed: dqn_atari", ("-m", "benchmarks.speed", "dqn_atari", *timed), 0.6),
    ]


def main() -> int:
    """Runs all checks, or writes tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="after which all is over")
    parser.add_argument("--out", type=Path, default=Path("gpu_checks.json"), help="what all checks came to")
    parser.add_argument("--leanrl", type=Path, help="checkout of pytorch-labs/LeanRL")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="put a file's tables into docs/, and nothing else"
    )
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try this script out"
    )
    parser.add_argument("--tests", nargs="*", default=(), help="further arguments of pytest")
    options = parser.parse_args()
    if options.write:
        write(json.loads(options.write.read_text()))
        return 0
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: nothing was checked", file=sys.stderr)
        return 2
    ends = time.monotonic() + 60 * options.minutes
    found: dict[str, Any] = {"provenance": speed.provenance(options.device == "cuda").strip(), "checks": {}}
    print(found["provenance"], flush=True)
    for check in checks(options.device, options):
        found["checks"][check.name] = outcome(check, check.share * (ends - time.monotonic()))
        options.out.write_text(json.dumps(found, indent=1))
    found["checks"]["runs on one card"] = sharing(options.device, ends - time.monotonic())
    options.out.write_text(json.dumps(found, indent=1))
    failed = [name for name, result in found["checks"].items() if result["failed"]]
    print(
        f"{options.out}: {len(found['checks']) - len(failed)} of {len(found['checks'])} checks passed",
        flush=True,
    )
    for name in failed:
        print(f"failed: {name}: {found['checks'][name]['failed']}", file=sys.stderr)
    return 1 if failed else 0


def outcome(check: Check, seconds: float) -> dict[str, Any]:
    """Runs a check for so many seconds at most; returns why it failed (None: it did not), its words and its numbers."""
    with tempfile.TemporaryDirectory() as folder:
        numbers, began = Path(folder) / "numbers.json", time.monotonic()
        fill = {"{json}": str(numbers), "{seconds}": f"{max(seconds - BUILDING_UP, 1):.0f}"}
        command = list(check.command)
        for word, value in fill.items():
            command = [part.replace(word, value) for part in command]
        print(f"== {check.name}, {seconds:.0f} s at most", flush=True)
        process = subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            words, _ = process.communicate(timeout=max(seconds, 1))
            failed = None if process.returncode == 0 else f"exit code {process.returncode}"
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # tests say what they came to
            try:
                words, _ = process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                words, _ = process.communicate()
            failed = f"not over after {seconds:.0f} s"
        print(words, flush=True)
        return {
            "failed": failed,
            "seconds": time.monotonic() - began,
            "words": words.splitlines()[-200:],
            "numbers": json.loads(numbers.read_text()) if numbers.exists() else None,
        }


def sharing(device: str, seconds: float) -> dict[str, Any]:
    """Measures PPO on Atari, one, two and four runs at a time: environment steps per second of all together."""
    options = argparse.Namespace(gpu=device == "cuda", cleanrl=None, leanrl=None)
    rates: dict[int, float] = {}
    failed = None
    for count in RUNS_ON_ONE_CARD:
        ends = time.monotonic() + seconds / len(RUNS_ON_ONE_CARD)
        try:
            rates[count] = together(count, options, ends)
        except RuntimeError as error:
            failed = str(error)
    print(f"== runs on one card: {rates}", flush=True)
    return {"failed": failed, "numbers": {str(count): rate for count, rate in rates.items()}}


def together(count: int, options: argparse.Namespace, ends: float) -> float:
    """Lets runs train side by side until `ends`; returns the steps per second of all, warm ones alone.

    Raises:
        RuntimeError: one ended, or had no time for three chunks.
    """
    with tempfile.TemporaryDirectory() as logs:
        runs = [speed.launch("ppo_atari", "fast", options, Path(logs) / f"{i}.log") for i in range(count)]
        try:
            chunks: list[float] = []
            while time.monotonic() < ends or len(chunks) <= speed.WARM_UP:
                turns = [run.end() for run in runs]  # a run begins by itself
                for run in runs:
                    run.begin()
                if any(turn is None for turn in turns):
                    raise RuntimeError(f"{count} runs: {runs[turns.index(None)].last_words()}")
                chunks.append(sum(turn[0] for turn in turns if turn) / max(turn[1] for turn in turns if turn))
        finally:
            for run in runs:
                run.process.kill()
    return median(chunks[speed.WARM_UP :])


def write(found: dict[str, Any]) -> None:
    """Puts the tables of a file into docs/performance.md and docs/plasticity.md."""
    results, text = found["checks"], found["provenance"] + "\n\n"
    for name in ("ppo_atari", "dqn_atari"):
        numbers = results[f"speed: {name}"]["numbers"] or {"cases": {}}
        for case, rows in numbers["cases"].items():
            text += "\n".join(speed.table(case, [speed.Result(**row) for row in rows], gpu=True)) + "\n"
    rates = results["runs on one card"]["numbers"]
    text += "\n".join(["| runs on one card | steps per second of all |", "|---|---|", ""])
    text += "\n".join(f"| {count} | {rate:,.0f} |" for count, rate in rates.items()) + "\n"
    failed = {name: result["failed"] for name, result in results.items() if result["failed"]}
    text += "".join(f"\nFailed: {name}: {why}.\n" for name, why in failed.items())
    speed.write(text, gpu=True)
    if (rows := results["plasticity"]["numbers"]) is not None:
        plasticity.write(rows["rows"], "cuda", rows["where"])


if __name__ == "__main__":
    sys.exit(main())
