"""Changes the code in many small places, one at a time, and lists the changes that no test notices.

    python -m tests.mutants --mutants 300 --seed 0

Each mutant is tried in a copy of the checkout by the tests that run its lines. `mutmut` names modules by their folders,
which here are not the names of imports; `cosmic-ray` cannot leave out a statement or an argument; so draw.py makes the
mutants. The same command again goes on where it stopped, and tries anew those that lived.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.mutants.draw import Mutant, draw
from tests.mutants.reach import ROOMS, Reach, record, state

EQUIVALENT = Path(__file__).with_name("equivalent.tsv")
TIMED_OUT = -1
QUIETLY = ["-q", "-p", "no:cacheprovider", "--no-header"]


def main() -> int:
    """Tries the mutants and returns 1 where too many live."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--mutants", type=int, default=300, help="how many, without equivalent ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--exclude", nargs="*", default=[], help="folders or files that are not changed")
    parser.add_argument("--seconds", type=float, default=120, help="of tests, as recorded, for each mutant")
    parser.add_argument("--folder", type=Path, default=Path("runs/mutants"), help="records and results")
    parser.add_argument("--goal", type=float, default=0.95, help="share that must die")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    folder = given.folder.resolve()
    results = folder / "results.jsonl"
    with tempfile.TemporaryDirectory() as temporary:
        copy = copy_of_checkout(Path(temporary) / "checkout")
        import stable_baselines3  # noqa: F401  once for all processes

        reach = Reach(folder, copy)
        if new := sorted(_test_files(copy) - reach.recorded):
            print(f"Recording which lines {len(new)} files of tests run.", flush=True)
            name = f"tests-{time.time():.0f}"
            in_process(copy, folder / f"{name}.log", 36_000, lambda: record(folder, name, new))
            reach = Reach(folder, copy)
        equivalent = {line.rpartition("\t")[0] for line in EQUIVALENT.read_text().splitlines()}
        drawn = draw(copy, ROOMS, given.seed, given.exclude)
        wanted = [mutant for mutant in drawn if mutant.key not in equivalent][: given.mutants]
        before = {}
        if results.exists():
            before = {one["key"]: one for one in map(json.loads, results.read_text().splitlines())}
        found = []
        for number, mutant in enumerate(wanted, 1):
            result = before.get(mutant.key)
            if result is None or result["outcome"] == "lived":
                result = {
                    "key": mutant.key,
                    "line": mutant.line,
                    **tried(mutant, reach, copy, folder, given.seconds),
                }
                with results.open("a") as file:
                    print(json.dumps(result), file=file)
                print(f"{number}: {mutant.file}:{mutant.line}: {result['outcome']}", flush=True)
            found.append((mutant, result))
    return summary(found, given.goal)


def _test_files(root: Path) -> set[str]:
    return {file for file in state(root, ["tests"]) if Path(file).name.startswith("test_")}


def copy_of_checkout(copy: Path) -> Path:
    """Copies what git knows or does not ignore; the links make `isorl.agents` the copy's own in every process."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    )
    for name in listed.stdout.split("\0"):
        if name and Path(name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(name, copy / name)
    for room in ROOMS:
        if room != "isorl":
            (copy / "isorl" / room).symlink_to(copy / room)
    return copy


def in_process(copy: Path, log: Path, limit: float, work: Callable[[], int | None]) -> int:
    """Runs `work` in a fork that lives in the copy and returns its exit code, or TIMED_OUT, when all of it is ended."""
    pid = os.fork()
    if not pid:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor in (1, 2):
            os.dup2(out, descriptor)
        code = 3
        try:
            os.chdir(copy)
            sys.path[:] = [
                str(copy),
                *(path for path in sys.path if path not in ("", str(Path(__file__).parents[2]))),
            ]
            os.environ.update(PYTHONPATH=str(copy), PYTHONDONTWRITEBYTECODE="1")
            sys.dont_write_bytecode = True
            for module in [name for name in sys.modules if name.partition(".")[0] in ("tests", "isorl")]:
                del sys.modules[module]
            code = int(work() or 0)
        finally:
            sys.stdout.flush()
            os._exit(code)
    until = time.monotonic() + limit
    while time.monotonic() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        time.sleep(0.05)
    else:
        status = None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    if status is None:
        os.waitpid(pid, 0)
        return TIMED_OUT
    return os.waitstatus_to_exitcode(status)


def tried(mutant: Mutant, reach: Reach, copy: Path, folder: Path, limit: float) -> dict[str, str]:
    """Returns whether tests notice a mutant, and what they say."""
    try:
        compile(mutant.code, mutant.file, "exec")
    except SyntaxError:
        return {"outcome": "no code"}
    end = mutant.line + mutant.lines - 1
    tests = reach.tests(mutant.file, mutant.line, end, limit)
    if not tests:
        return {"outcome": "lived", "by": "no test imports it"}
    place, log = copy / mutant.file, folder / "last.log"
    plain = place.read_text()
    place.write_text(mutant.code)
    seconds = 60 + 2 * sum(reach.seconds[test] for test in tests)

    def run(given: Iterable[str]) -> tuple[int, str]:
        def work() -> int:
            import pytest

            return pytest.main([*QUIETLY, f"--basetemp={copy.parent / 'temporary'}", "-x", *given])

        return in_process(copy, log, seconds, work), log.read_text(errors="replace")

    try:
        code, said = run(tests)
        if "ERROR: not found" in said:  # a test for each entry of a registry, of which one is gone
            code, said = run(dict.fromkeys(test.partition("::")[0] for test in tests))
    finally:
        place.write_text(plain)
    by = next(
        (line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))), f"exit code {code}"
    )
    outcome = "lived" if code == 0 else "timed out" if code == TIMED_OUT else "killed"
    return {"outcome": outcome, "by": by[:200] if code else f"{len(tests)} tests pass"}


def summary(found: list[tuple[Mutant, dict[str, str]]], goal: float) -> int:
    """Prints the mutants that lived, counts, and by room how many died."""
    counts = Counter((mutant.file.split("/")[0], result["outcome"] == "lived") for mutant, result in found)
    for mutant, result in found:
        if result["outcome"] == "lived":
            print(f"\n{mutant.file}:{mutant.line}  ({result['by']})\n- {mutant.was}\n+ {mutant.becomes}")
    print(f"\n{'room':<14}{'mutants':>8}{'died':>8}")
    for room in ROOMS:
        print(f"{room:<14}{counts[room, True] + counts[room, False]:>8}{counts[room, False]:>8}")
    died = sum(number for (_, lived), number in counts.items() if not lived)
    print(f"{'all':<14}{len(found):>8}{died:>8}  ({died / max(1, len(found)):.1%})")
    return int(died < goal * len(found))


if __name__ == "__main__":
    sys.exit(main())
