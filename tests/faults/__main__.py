"""The long form: python -m tests.faults --kills 200 --fuzz 100000 --fuzz-run 200 --mutations 10000 --writes ..."""

import argparse
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument(
        "--kills", type=int, default=0, help="SIGKILLs at random moments, each followed by a resume"
    )
    parser.add_argument("--fuzz", type=int, default=0, help="random command lines, accepted or refused")
    parser.add_argument("--fuzz-run", type=int, default=0, help="how many of those accepted are run, shortly")
    parser.add_argument(
        "--mutations", type=int, default=0, help="damaged and hostile checkpoints, opened or refused"
    )
    parser.add_argument("--writes", action="store_true", help="every write of a run fails once")
    parser.add_argument(
        "--soak", type=float, default=0, help="seconds of Atari and of MuJoCo: memory and descriptors"
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    from tests.faults import fuzz, kills, mutations, soak, writes  # heavy; --help is quick

    wanted = {
        "kills": lambda folder: kills.kill_and_resume(folder, given.kills, given.seed),
        "fuzz": lambda folder: fuzz.fuzz(folder, given.fuzz, given.seed, given.fuzz_run),
        "mutations": lambda folder: mutations.mutate(folder, given.mutations, given.seed),
        "writes": lambda folder: writes.fail_each(folder),
        "soak": lambda folder: soak.soak(folder, given.soak),
    }
    for name, harness in wanted.items():
        if getattr(given, name):
            begun = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                found = dict(harness(Path(folder)))
            print(f"{name}: {found}, {time.monotonic() - begun:,.0f} s", flush=True)


if __name__ == "__main__":
    main()
