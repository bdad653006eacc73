"""How fast training is, beside stable-baselines3, CleanRL and LeanRL: ratios measured in one run.

    python -m benchmarks.speed [CASE ...] [--rounds 5] [--cleanrl PATH] [--leanrl PATH] [--gpu] [--json FILE] [--write]

Every contender trains in a process of its own with one torch thread. The processes take turns: each trains for one
chunk of environment steps and waits until all others have done theirs, so that whatever else the machine does falls
on all alike. What counts is the CPU time of the process, all threads together (on a GPU the wall clock); the first
chunks, with imports and compilation, are left out and shown apart. --json keeps the rates after every round, --write
puts the tables into docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "performance.md"


@dataclass(frozen=True)
class Case:
    """One comparison: the same algorithm, hyper-parameters and network everywhere.

    Attributes:
        title: of its table.
        chunk: environment steps of one turn; whole rollouts with their updates.
        contenders: names; the first is the one that all others are compared to.
        on_gpu: those that only a GPU has a use for.
    """

    title: str
    chunk: int
    contenders: tuple[str, ...]
    on_gpu: tuple[str, ...] = ()


CASES = {
    "ppo_atari": Case(
        "PPO, Atari Breakout: 8 copies x 128 steps, 4 epochs x 4 minibatches of 256, Nature CNN",
        1024,
        ("SB3", "CleanRL", "CleanRL envpool", "LeanRL", "LeanRL compiled", "exact", "fast", "fast, bf16", "fast, AdamO",
         "environment alone", "network alone"),
        ("fast, TF32", "fast, TF32, compiled", "fast, bf16, compiled"),
    ),
    "dqn_atari": Case(
        "DQN, Atari Breakout: minibatches of 32, one update per 4 steps, Nature CNN",
        512,
        ("SB3", "CleanRL", "exact", "fast", "fast, bf16", "fast, 8 copies", "fast, bf16, 8 copies",
         "environment alone", "network alone"),
        ("fast, TF32", "fast, TF32, compiled", "fast, bf16, compiled"),
    ),
    "ppo_cartpole": Case(
        "PPO, CartPole: 8 copies x 128 steps, 4 epochs x 4 minibatches of 256, MLPs 2 x 64 tanh",
        32768,
        ("SB3", "CleanRL", "exact", "fast", "environment alone", "network alone"),
    ),
    "ppo_mujoco": Case(
        "PPO, HalfCheetah: 1 copy x 2048 steps, 10 epochs x 32 minibatches of 64, MLPs 2 x 64 tanh",
        2048,
        ("SB3", "CleanRL", "exact", "fast", "environment alone", "network alone"),
    ),
    "ppo_nine_rooms": Case(
        "PPO, nine rooms, ten seeds: 8 copies x 16 steps, 4 epochs x 4 minibatches of 32, MLPs 225-64-64 tanh",
        40960,
        ("SB3", "exact", "fast", "fast, 10 seeds as one", "environment alone",
         "network alone"),
    ),
    "dqn_rain": Case(
        "DQN, Rain, ten seeds: 8 copies, a minibatch of 32 per vector step, MLP 105-64-64",
        40960,
        ("SB3", "exact", "fast", "fast, 10 seeds as one", "environment alone",
         "network alone"),
    ),
    "ppo_minatar": Case(
        "PPO, MinAtar Space Invaders: 8 copies x 128 steps, 4 epochs x 4 minibatches of 256, small CNN",
        2048,
        ("SB3", "fast", "environment alone", "network alone"),
    ),
    "ppo_minatar_mlp": Case(
        "PPO, MinAtar Space Invaders: the same with MLPs 600-64-64 tanh on flattened images",
        20480,
        ("SB3", "fast", "fast, 10 seeds as one", "environment alone", "network alone"),
    ),
    "dqn_minatar": Case(
        "DQN, MinAtar Space Invaders: 8 copies, a minibatch of 32 per vector step, small CNN",
        2048,
        ("SB3", "fast", "environment alone", "network alone"),
    ),
    "dqn_minatar_mlp": Case(
        "DQN, MinAtar Space Invaders: the same with an MLP 600-64-64 on flattened images",
        20480,
        ("SB3", "fast", "fast, 10 seeds as one", "environment alone", "network alone"),
    ),
    "ppo_walker": Case(
        "PPO, DeepMind control, walker walks: 1 copy x 2048 steps, 10 epochs x 32 minibatches of 64, MLPs 2 x 64 tanh",
        2048,
        ("SB3", "fast", "environment alone", "network alone"),
    ),
}  # fmt: skip
PARTS = ("environment alone", "network alone")
BEGAN = time.perf_counter()
WARM_UP = 2
"""Chunks before the first measured one."""


class Metronome:
    """Called at every vector step; holds the training at the end of each chunk until it is its turn again."""

    def __init__(self, chunk: int, gpu: bool) -> None:
        self.chunk, self.gpu = chunk, gpu
        self.steps, self.began = 0, BEGAN if gpu else 0.0
        self.out, sys.stdout = sys.stdout, sys.stderr  # what the contender prints is not for us

    def __call__(self, steps: int) -> None:
        """Counts `steps` environment steps."""
        self.steps += steps
        if self.steps >= self.chunk:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(self.steps, self._clock() - self.began, peak, file=self.out, flush=True)
            if not sys.stdin.readline():
                sys.exit()
            self.steps, self.began = 0, self._clock()

    def _clock(self) -> float:
        if not self.gpu:
            return time.process_time()
        import torch

        torch.cuda.synchronize()
        return time.perf_counter()


@dataclass
class Result:
    """What was measured of a contender.

    Attributes:
        name: of the contender.
        rates: environment steps per second, one for each round.
        start_up: seconds until the end of the first chunk.
        peak: of its memory, MiB.
        failed: why it does not run here; None where it does.
    """

    name: str
    rates: list[float] = field(default_factory=list)
    start_up: float = 0.0
    peak: float = 0.0
    failed: str | None = None


@dataclass
class Contender:
    """A contender's process and what was measured of it."""

    result: Result
    process: subprocess.Popen[str]
    log: Path

    def turn(self) -> tuple[float, float] | None:
        """(steps, seconds) of one chunk; None where the process has ended."""
        self.begin()
        return self.end()

    def begin(self) -> None:
        """Lets the contender train its next chunk."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write("\n")
            self.process.stdin.flush()

    def end(self) -> tuple[float, float] | None:
        """Waits for the end of the chunk: what `turn` returns."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().split()
        if not line:
            return None
        self.result.peak = float(line[2])
        return float(line[0]), float(line[1])

    def last_words(self) -> str:
        """Why the process has ended."""
        lines = self.log.read_text().strip().splitlines()
        return lines[-1] if lines else f"exit code {self.process.wait()}"


def measure(
    case: str,
    names: Sequence[str],
    options: argparse.Namespace,
    keep: Callable[[list[Result]], None] = lambda results: None,
) -> list[Result]:
    """Lets the contenders of a case take turns for so many rounds, fewer where `options.seconds` are over.

    Args:
        case: a name in CASES.
        names: of contenders.
        options: of the command line.
        keep: is called after every round.
    """
    ends = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory() as logs:
        contenders = [launch(case, name, options, Path(logs) / f"{i}.log") for i, name in enumerate(names)]
        results, taking_turns = [contender.result for contender in contenders], list(contenders)
        for number in range(-WARM_UP, options.rounds):
            if number > 0 and time.monotonic() > ends:
                break
            for contender in list(taking_turns):
                # all start up side by side; from then on each has the machine to itself
                turn = contender.end() if number == -WARM_UP else contender.turn()
                result = contender.result
                if turn is None:
                    result.failed = contender.last_words()
                    print(f"{result.name} does not run here: {result.failed}", flush=True)
                    taking_turns.remove(contender)
                elif number >= 0:
                    result.rates.append(turn[0] / turn[1])
                elif number == -WARM_UP:
                    result.start_up = turn[1]
            keep(results)
        for contender in contenders:
            contender.process.kill()
    return results


def launch(case: str, name: str, options: argparse.Namespace, log: Path) -> Contender:
    """Starts the process of a contender; what it prints goes to `log`."""
    command = [sys.executable, "-m", "benchmarks.speed", case, "--contender", name]
    command += [f"--{flag}={value}" for flag in ("cleanrl", "leanrl") if (value := getattr(options, flag))]
    command += ["--gpu"] if options.gpu else []
    pipe = subprocess.PIPE
    # numpy takes the kernels of this processor, as on a user's machine, whatever an image or a cluster pins
    env = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    process = subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=log.open("w"), text=True, cwd=ROOT, env=env
    )
    return Contender(Result(name), process, log)


def contend(case: str, name: str, options: argparse.Namespace) -> None:
    """What a contender's process does: train for ever, at the metronome's pace."""
    import torch

    from benchmarks import contenders, peers

    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity") and not options.gpu:
        # all on one core, which so is never idle: a virtual one comes back slowly, for longer than a fast turn takes
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    tick = Metronome(CASES[case].chunk, options.gpu)
    if (case, name) in peers.SCRIPTS:
        script, arguments = peers.SCRIPTS[case, name]
        checkout = getattr(options, script.partition("/")[0])
        if checkout is None:
            sys.exit(f"no checkout: --{script.partition('/')[0]} PATH")
        peers.run_script(checkout, script, arguments, options.gpu, tick)
    else:
        contenders.run(case, name, "cuda" if options.gpu else "cpu", tick)


def table(case: str, results: Sequence[Result], gpu: bool) -> list[str]:
    """Lines of Markdown: rates, and ratios to the first contender paired round by round."""
    results = [result for result in results if result.failed is None and result.rates]
    if not results:
        return []
    first, by_name = results[0], {result.name: result for result in results}
    unit = "second" if gpu else "CPU-second"
    head = [
        "",
        f"steps per {unit}",
        f"ratio to {first.name}: median (range)",
        "first chunk, s",
        "memory, MiB",
    ]
    lines = [f"### {CASES[case].title}", "", "| " + " | ".join(head) + " |", "|---|---|---|---|---|"]
    for result in results:
        ratios = [ours / theirs for ours, theirs in zip(result.rates, first.rates, strict=True)]
        row = [result.name, f"{median(result.rates):,.0f}", spread(ratios)]
        row += [f"{result.start_up:.1f}", f"{result.peak:,.0f}"]
        lines.append("| " + " | ".join(row) + " |")
    if {"fast", *PARTS} <= by_name.keys():
        parts = zip(*(by_name[name].rates for name in ("fast", *PARTS)), strict=True)
        shares = [rate / environment + rate / network for rate, environment, network in parts]
        lines += ["", f"Share of the limit that environment and network set by themselves: {spread(shares)}."]
    return [*lines, ""]


def spread(values: Sequence[float]) -> str:
    """Median and range."""
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def write(text: str, gpu: bool) -> None:
    """Replaces what stands between the markers of the device in docs/performance.md."""
    device = "cuda" if gpu else "cpu"
    start, end = f"<!-- benchmark {device} -->", f"<!-- end benchmark {device} -->"
    pattern = re.compile(f"{start}.*?{end}", re.DOTALL)
    DOCS.write_text(pattern.sub(lambda _: f"{start}\n{text}{end}", DOCS.read_text()))


def provenance(gpu: bool) -> str:
    """Date, commit, machine and versions."""
    import stable_baselines3
    import torch

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT)
    machine = torch.cuda.get_device_name() if gpu else f"one thread of {processor()}"
    return (
        f"{date.today()}, commit {commit.stdout.strip()}, {machine}, torch {torch.__version__}, "
        f"stable-baselines3 {stable_baselines3.__version__}\n"
    )


def processor() -> str:
    """The CPU's name."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.processor()


def main() -> None:
    """Measures the cases and prints their tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="a case's rounds end then; default: never"
    )
    parser.add_argument("--only", nargs="*", help="contenders beside the first; default: all")
    parser.add_argument("--cleanrl", type=Path, help="checkout of vwxyzjn/cleanrl")
    parser.add_argument("--leanrl", type=Path, help="checkout of pytorch-labs/LeanRL")
    parser.add_argument("--gpu", action="store_true", help="train on CUDA")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the rates are kept")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/performance.md")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        return contend(options.cases[0], options.contender, options)
    where = provenance(options.gpu)
    text, measured = where + "\n", dict[str, Any]()
    for case in options.cases or CASES:
        first, *others = CASES[case].contenders
        others += CASES[case].on_gpu if options.gpu else ()
        names = [first, *(name for name in others if not options.only or name in options.only)]

        def keep(results: list[Result], case: str = case) -> None:
            measured[case] = [asdict(result) for result in results]
            if options.json:
                options.json.write_text(json.dumps({"provenance": where.strip(), "cases": measured}))

        lines = table(case, measure(case, names, options, keep), options.gpu)
        print("\n".join(lines), flush=True)
        text += "\n".join(lines) + "\n"
    if options.write:
        write(text, options.gpu)


if __name__ == "__main__":
    main()
