"""Runs arms on classification streams without a run folder: accuracy by task, and the state of the network.

    python -m benchmarks.streams digits_random_labels --seeds 3 --arms adam adamo aei

It is what `make demo` and docs/claims.md are made of. Everything comes from the configuration, as in train.py.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor

from isorl.agents.policies import preprocess
from isorl.configs.command_line import FOLDER, register_resolvers, resolve
from isorl.configs.schema import EvaluationConfig
from isorl.experiments.run.evaluation import Evaluator
from isorl.experiments.run.experiment import build
from isorl.experiments.run.probes import collect_probe
from isorl.plasticity.diagnostics import diagnose

Run = dict[str, Any]
ARMS: dict[str, tuple[str, ...]] = {
    "adam": ("network=relu", "optimizer=adam"),
    "layer_norm": ("network=layer_norm", "optimizer=adam"),
    "l2_init": ("network=relu", "optimizer=adam", "method=[l2_init]", "method.l2_init.strength=3e-3"),
    "adamo": ("network=relu", "optimizer=adamo"),
    "maxmin": ("network=aei", "optimizer=adam"),
    "aei": ("network=aei", "optimizer=adamo"),
    "fresh": ("network=relu", "optimizer=adam", "method=[full_reset]"),
}
"""Arm -> what it changes on the command line of train.py."""

MEMORY_ARMS: dict[str, tuple[str, ...]] = {
    "replay": ("network=relu", "optimizer=adam", "method=[replay]"),
    "ewc": ("network=relu", "optimizer=adam", "method=[ewc]"),
}
"""Remedies against forgetting, which is another thing than losing plasticity."""

FRESH_SEED = 100
"""Seeds from here on were not used to choose any setting; 0 to 2 were."""

METRICS = ("dormant_units", "ntk_condition", "layer_jacobian_spectrum", "gradient_norm")


class Watch(BaseCallback):
    """Accuracy at the end of every visit, state of the network where there is a probe; reads, never changes.

    Args:
        probes: visit number -> probe batch.
        metrics: names in plasticity.diagnostics.METRICS.
    """

    def __init__(self, probes: dict[int, np.ndarray], metrics: Sequence[str]) -> None:
        super().__init__()
        self.probes, self.metrics = probes, metrics
        self.accuracy: list[float] = []
        self.measured: list[dict[str, Any]] = []
        self._right, self._answered = 0.0, 0

    def _on_training_start(self) -> None:
        self.visit = self.training_env.unwrapped.visit

    def _on_step(self) -> bool:
        self._right += float(np.count_nonzero(self.locals["rewards"] > 0))
        self._answered += len(self.locals["rewards"])
        visit = self.training_env.unwrapped.visit
        if visit.number != self.visit.number:
            self._close()
            self.visit = visit
        return True

    def _on_training_end(self) -> None:
        self._close()

    def _close(self) -> None:
        self.accuracy.append(self._right / self._answered)
        self._right, self._answered = 0.0, 0
        if self.visit.number in self.probes:
            self.measure(self.model.policy, self.probes[self.visit.number])

    def measure(self, policy: Any, probe: np.ndarray) -> None:
        """Adds the metrics of the networks as they are."""
        values = diagnose(policy.networks(), preprocess(policy, probe), self.metrics)
        self.measured.append({key: _plain(value) for key, value in values.items()})


def play(
    overrides: Sequence[str],
    metrics: Sequence[str] = METRICS,
    held_out: bool = False,
    at_the_end: bool = False,
) -> Run:
    """One run of the configuration `overrides`: accuracy by visit, measurements by visit, seconds of training.

    `held_out`: then also each task's accuracy on its evaluation data, after the last visit. `at_the_end`: measured
    before the first update and after the last visit alone, both on the last task's probe batch.
    """
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base=None, config_dir=str(FOLDER)):
        config = resolve(
            compose("config", overrides=["agent=classifier", "device=cpu", "run_dir=''", *overrides])
        )
    parts = build(config)
    common, sequence = parts.switching.common, parts.sequence
    watched = sequence.visits[-1:] if at_the_end else sequence.visits
    probes = {
        visit.number: collect_probe(visit.task, common, config.diagnostics.probe_size, config.seed)
        for visit in (watched if metrics else ())
    }
    watch = Watch(probes, metrics)
    if at_the_end and metrics:
        watch.measure(parts.agent.policy, probes[watched[-1].number])
    began = time.process_time()
    parts.agent.learn(sequence.agent_steps, watch, log_interval=None)  # type: ignore[arg-type]
    seconds = time.process_time() - began
    judge = Evaluator(EvaluationConfig(episodes=8), common, config.seed)
    scores = [judge.mean_return(parts.agent, task) for task in sequence.tasks] if held_out else []
    parts.env.close()
    return {"accuracy": watch.accuracy, "measured": watch.measured, "seconds": seconds, "held_out": scores}


class Job(NamedTuple):
    """One run to make: `words` are what train.py would be told."""

    arm: str
    seed: int
    words: tuple[str, ...]
    metrics: Sequence[str] = METRICS
    held_out: bool = False
    at_the_end: bool = False


def jobs_of(arms: Iterable[str], seeds: Iterable[int], *words: str) -> list[Job]:
    """Every arm on every seed; the arms go round within a seed, so that all show early."""
    known = ARMS | MEMORY_ARMS
    return [Job(arm, seed, (*words, *known[arm], f"seed={seed}")) for seed in seeds for arm in arms]


def play_all(jobs: Sequence[Job], processes: int = 1) -> Iterator[tuple[Job, Run]]:
    """The runs as they finish; several processes take one thread each."""
    if processes == 1:
        yield from map(_made, jobs)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(_made, jobs)


def _made(job: Job) -> tuple[Job, Run]:
    return job, play(job.words, job.metrics, job.held_out, job.at_the_end)


def _plain(value: Any) -> float | list[float]:
    return [float(number) for number in value] if isinstance(value, Tensor) and value.ndim else float(value)


def first_last(runs: Sequence[Run], tasks: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Mean accuracy on the first and on the last `tasks` tasks, one entry per run."""
    accuracy = np.array([run["accuracy"] for run in runs])
    return accuracy[:, :tasks].mean(axis=1), accuracy[:, -tasks:].mean(axis=1)


def network_value(run: Run, metric: str) -> list[float]:
    """The metric of the whole network at each measurement; NaN where there was none, as of gradients at the start."""
    return [row.get(f"plasticity/{metric}/classifier", float("nan")) for row in run["measured"]]


def main(show: Callable[[str], None] = print) -> None:
    """Plays what the command line asks for and prints one row per arm."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sequence")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS | MEMORY_ARMS))
    parser.add_argument("--last", type=int, default=2, help="how many tasks count as the first and the last")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], help="further KEY=VALUE of train.py")
    options = parser.parse_args()
    runs: dict[str, list[Run]] = {arm: [] for arm in options.arms}
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    jobs = jobs_of(options.arms, seeds, f"sequence={options.sequence}", *options.set)
    for job, run in play_all(jobs, options.processes):
        runs[job.arm].append(run)
    show(f"{'arm':12} first  last  dormant  NTK condition  s per run")
    for arm, done in runs.items():
        first, last = (values.mean() for values in first_last(done, options.last))
        dormant = np.mean([network_value(run, "dormant_units")[-1] for run in done])
        condition = np.median([network_value(run, "ntk_condition")[-1] for run in done])
        seconds = np.mean([run["seconds"] for run in done])
        show(f"{arm:12} {first:.3f}  {last:.3f}  {dormant:.3f}  {condition:13.2g}  {seconds:.1f}")


if __name__ == "__main__":
    main()
