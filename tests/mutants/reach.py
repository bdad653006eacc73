"""Which tests run which lines, from one recorded run of the tests (coverage with a context for each test).

A record is a pair of files: coverage's data, and JSON with the tests that passed, how long each took, and the state of
every file then. Tests whose file has changed since are recorded anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from functools import cache
from pathlib import Path

ROOMS = ["agents", "envs", "plasticity", "experiments", "isorl", "configs"]


def state(root: Path, folders: list[str]) -> dict[str, str]:
    """Returns a checksum of every Python file in folders of `root`."""
    files = sorted(file for folder in folders for file in (root / folder).rglob("*.py"))
    return {f.relative_to(root).as_posix(): hashlib.sha1(f.read_bytes()).hexdigest() for f in files}


SETTINGS = """[run]
data_file = {data_file}
source = {source}
parallel = true
context = ${{RECORDED_TEST-}}
"""


class Recorder:
    """A pytest plugin that records the lines of each test, of the processes that it starts, too."""

    def __init__(self, data_file: Path) -> None:
        import coverage

        settings = data_file.with_suffix(".ini")
        source = ",".join(str(Path.cwd() / room) for room in ROOMS)
        settings.write_text(SETTINGS.format(data_file=data_file, source=source))
        self.coverage = coverage.Coverage(config_file=str(settings))
        os.environ["COVERAGE_PROCESS_START"] = str(settings)
        self.seconds: dict[str, float] = defaultdict(float)
        self.failed: set[str] = set()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        os.environ["RECORDED_TEST"] = nodeid
        self.coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report) -> None:
        self.seconds[report.nodeid] += report.duration
        if report.outcome != "passed":
            self.failed.add(report.nodeid)


def record(folder: Path, name: str, arguments: list[str]) -> None:
    """Runs pytest in the working directory and writes the record `name` into `folder`."""
    import coverage
    import pytest

    recorder = Recorder(folder / f"{name}.coverage")
    recorder.coverage.start()
    pytest.main(
        ["-q", "-p", "no:cacheprovider", f"--basetemp={Path.cwd().parent / 'temporary'}", *arguments],
        plugins=[recorder],
    )
    recorder.coverage.stop()
    recorder.coverage.save()
    of_all = coverage.Coverage(str(folder / f"{name}.coverage"), config_file=False)
    of_all.combine()
    of_all.save()
    passed = {test: s for test, s in recorder.seconds.items() if test not in recorder.failed}
    recorded = {
        "files": state(Path.cwd(), [*ROOMS, "tests"]),
        "seconds": passed,
        "failed": sorted(recorder.failed),
    }
    (folder / f"{name}.json").write_text(json.dumps(recorded))


class Reach:
    """The records of a folder, of which later ones hold where tests were recorded twice."""

    def __init__(self, folder: Path, root: Path) -> None:
        import coverage

        self.now = state(root, [*ROOMS, "tests"])
        self.seconds: dict[str, float] = {}
        self.recorded: set[str] = set()
        """Test files that are as they were."""
        self.parts: list[tuple[dict, coverage.CoverageData, Path]] = []
        for file in sorted(folder.glob("*.json"), key=os.path.getmtime):
            part = json.loads(file.read_text())
            data = coverage.CoverageData(str(file.with_suffix(".coverage")))
            data.read()
            base = Path(os.path.commonpath(data.measured_files()))
            self.parts.append((part, data, base))
            ran = {test.partition("::")[0] for test in [*part["seconds"], *part["failed"]]}
            same = {test_file for test_file in ran if part["files"][test_file] == self.now.get(test_file)}
            self.recorded |= same
            self.seconds |= {t: s for t, s in part["seconds"].items() if t.partition("::")[0] in same}

    @cache  # noqa: B019  one for the process
    def _tests_of_lines(self, file: str) -> dict[int, set[str]]:
        found: dict[int, set[str]] = defaultdict(set)
        for part, data, base in self.parts:
            same = part["files"].get(file) == self.now[file]
            for line, tests in data.contexts_by_lineno(str(base / file)).items():
                found[line if same else 0] |= {test.partition("|")[0] for test in tests} & self.seconds.keys()
        return found

    def tests(self, file: str, line: int, end: int, limit: float) -> list[str]:
        """Returns the tests that run one of these lines, nearest and quickest first, as many as `limit` seconds allow.

        Where none does (what is run on import, or in a process of its own), these are the tests that run any line of
        the file. Others of their files come last: they may look at what one of them made for all.
        """
        of_lines = self._tests_of_lines(file)
        reached = set().union(*(of_lines.get(number, set()) for number in [0, *range(line, end + 1)]))
        reached = reached or set().union(*of_lines.values())
        room, stem = file.split("/")[0], Path(file).stem

        def nearness(test: str) -> tuple[bool, bool, bool, float]:
            test_file = test.partition("::")[0]
            far = stem not in Path(test_file).stem, f"/{room}/" not in test_file
            return test not in reached, *far, self.seconds[test]

        files = {test.partition("::")[0] for test in reached}
        beside = {test for test in self.seconds if test.partition("::")[0] in files}
        chosen, total = [], 0.0
        for test in sorted(beside, key=nearness):
            total += self.seconds[test]
            if total <= limit or not chosen:
                chosen.append(test)
        return chosen
