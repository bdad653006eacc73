"""Chooses settings: every arm gets equally many candidates, on seeds that are never reported, and it is written down.

The candidate with the highest mean over tuning seeds of the mean return over all visits is chosen, arm by arm and
sequence by sequence. `tuned.yaml` holds what was tried, what it scored and what was chosen.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import OmegaConf

from isorl.configs import UserError
from isorl.configs.program import command
from isorl.configs.suite import BenchmarkConfig, TuningConfig
from isorl.experiments.grid.cell import CANDIDATE, Cell, State
from isorl.experiments.grid.expand import RunRequest, Settings, requests_of_benchmark
from isorl.experiments.grid.work import score_of

OBJECTIVE = "mean over tuning seeds of the mean raw return over all visits"


Candidate = tuple[str, ...]
"""Settings, each KEY=VALUE."""


class Trial(NamedTuple):
    """Names a candidate of an arm on a sequence, and the seeds on which it is judged."""

    sequence: str
    arm: str
    candidate: Candidate
    seeds: Sequence[int]


def space_of(tuning: TuningConfig, arm: str) -> dict[str, list[Any]]:
    """Returns key -> values for `arm`: those of all arms and its own."""
    return {**tuning.space, **tuning.of_arm.get(arm, {})}


def every_setting(space: Mapping[str, Sequence[Any]]) -> list[Candidate]:
    """Returns all combinations of the values of `space`."""
    return list(
        itertools.product(*([f"{key}={text(value)}" for value in values] for key, values in space.items()))
    )


def candidates(tuning: TuningConfig, arm: str) -> list[Candidate]:
    """Returns the settings of `arm` that are tried first: the whole space, or a fixed draw from it.

    Raises:
        UserError: the space has fewer settings than the budget, so that this arm would get fewer than others.
    """
    every, count = every_setting(space_of(tuning, arm)), tuning.budget - tuning.refine
    if len(every) < count:
        raise UserError(
            f"benchmark.tuning: the space of '{arm}' has {len(every)} settings, fewer than the budget of {count}. "
            "Every arm gets the same budget: widen benchmark.tuning.of_arm or lower benchmark.tuning.budget."
        )
    if len(every) == count:
        return every
    drawn = np.random.default_rng(0).choice(len(every), size=count, replace=False)
    return [every[index] for index in sorted(drawn)]


def text(value: Any) -> str:
    """Returns `value` as the command line wants it, without blanks, which separate the overrides of a candidate."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":")).replace('"', "")


def requests(suite: BenchmarkConfig, trial: Trial, overrides: Iterable[str]) -> list[RunRequest]:
    """Returns a request for every seed of a trial; its overrides follow the arm's name."""
    grid = suite.to_tune()
    arm = f"{trial.arm}{CANDIDATE}{' '.join(trial.candidate)}"
    one = replace(
        grid,
        arms={arm: [*suite.arms[trial.arm], *trial.candidate]},
        sequences={trial.sequence: grid.sequences[trial.sequence]},
        seeds=list(trial.seeds),
    )
    return requests_of_benchmark(one, overrides)


def choose(cells: Sequence[Cell]) -> dict[str, dict[str, Any]]:
    """Chooses for each sequence and arm the candidate with the highest score; NaN (failed, diverged) is the lowest.

    Candidates that were judged on fewer seeds than others are not chosen.

    Returns:
        {sequence: {arm: {"overrides": [...], "score": float, "tried": {candidate: score}, "unfinished": cells}}}
    """
    scores: dict[tuple[str, str, str], list[float]] = {}
    result: dict[str, dict[str, Any]] = {}
    for cell in cells:
        arm, _, candidate = cell.arm.partition(CANDIDATE)
        row = result.setdefault(cell.sequence, {}).setdefault(arm, {"tried": {}, "unfinished": 0})
        scores.setdefault((cell.sequence, arm, candidate), []).append(score_of_cell(cell))
        row["unfinished"] += cell.state() not in (State.FINISHED, State.FAILED)
    for (sequence, arm, candidate), by_seed in scores.items():
        result[sequence][arm]["tried"][candidate] = float(np.mean(by_seed))
    for sequence, arms in result.items():
        for arm, row in arms.items():
            of_seeds = {candidate: len(scores[sequence, arm, candidate]) for candidate in row["tried"]}
            known = [candidate for candidate, count in of_seeds.items() if count == max(of_seeds.values())]
            best = max(known, key=lambda candidate: or_least(row["tried"][candidate]))
            row |= {"overrides": best.split(" "), "score": row["tried"][best]}
    return result


def save_trials(
    path: Path, cells: Sequence[Cell], chosen: Mapping[str, Any], before: Mapping[str, Any]
) -> None:
    """Writes CSV with one line for every trial and seed: what was tried, its score, whether it was chosen.

    Args:
        path: of the file, whose lines of arms and sequences in `before`, and not in `chosen`, stay.
        cells: of the trials.
        chosen: as from `choose`.
        before: as from `tuned_before`.
    """
    rows = []
    if path.is_file():
        with path.open(newline="") as file:
            old = [row for row in csv.DictReader(file) if row["arm"] in before.get(row["sequence"], ())]
        rows = [list(row.values()) for row in old if row["arm"] not in chosen.get(row["sequence"], ())]
    for cell in cells:
        arm, _, candidate = cell.arm.partition(CANDIDATE)
        best = " ".join(chosen[cell.sequence][arm]["overrides"]) == candidate
        score = score_of_cell(cell)
        rows.append([cell.sequence, arm, candidate, cell.seed, cell.state().value, f"{score:.6g}", int(best)])
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(
            [["sequence", "arm", "candidate", "seed", "state", "score", "chosen"], *rows]
        )


def score_of_cell(cell: Cell) -> float:
    """Returns the cell's mean raw return over all visits; NaN where it is not finished."""
    content = cell.summary()
    return math.nan if content is None else score_of(content)


def or_least(score: float) -> float:
    """Returns the score, and less than any where it is NaN."""
    return -math.inf if math.isnan(score) else score


def save(path: Path, suite: BenchmarkConfig, chosen: Mapping[str, Any]) -> None:
    """Writes what was tried and chosen to `path`, as tuned.yaml, and keeps other arms and sequences `tuned_before`."""
    whole = {name: dict(arms) for name, arms in tuned_before(path, suite).items()}
    for sequence, arms in chosen.items():
        whole.setdefault(sequence, {}).update(arms)
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(_terms(suite) | {"chosen": whole})))


def tuned_before(path: Path, suite: BenchmarkConfig) -> dict[str, Any]:
    """Returns what tuned.yaml says was chosen under the terms of `suite`; nothing where its terms are others."""
    record: Any = OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else {}
    chosen = record.pop("chosen", {})
    return chosen if record == _terms(suite) else {}


def _terms(suite: BenchmarkConfig) -> dict[str, Any]:
    tuned = suite.tuning
    assert tuned is not None
    return {"benchmark": suite.name, "objective": OBJECTIVE, "budget": tuned.budget, "rungs": tuned.rungs,
            "refine": tuned.refine, "seeds": tuned.seeds}  # fmt: skip


def settings(suite: BenchmarkConfig) -> Settings:
    """Returns the overrides that `suite.tuned` chose for each sequence and arm; nothing where it names no file.

    Raises:
        UserError: the file is missing, lacks an arm, is of unfinished tuning, or was made on seeds that are to be
            reported.
    """
    if suite.tuned is None:
        return {}
    chosen = _load(Path(suite.tuned), suite)["chosen"]
    pairs = [(sequence, arm) for sequence in suite.sequences for arm in suite.arms]
    for sequence, arm in pairs:
        row = chosen.get(sequence, {}).get(arm)
        if reason := _useless(row):
            raise UserError(f"'{suite.tuned}' has no settings for arm '{arm}' on '{sequence}'{reason}.")
    return {(sequence, arm): chosen[sequence][arm]["overrides"] for sequence, arm in pairs}


def _useless(row: dict[str, Any] | None) -> str:
    """Why nothing can be taken from an entry of tuned.yaml; "" where something can."""
    if row is None:
        return ": it was not tuned. Tune again"
    if "overrides" not in row:
        return " that this version can read. Give the command of tuning again: it skips what is finished"
    if row.get("unfinished"):
        return f": {row['unfinished']} cells of its candidates are not finished. Give the command of tuning again"
    return ": none of its candidates has a score" if math.isnan(row.get("score", 0.0)) else ""


def _load(path: Path, suite: BenchmarkConfig) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(
            f"benchmark.tuned: there is no file '{path}'. Report untuned settings with benchmark.tuned=null, or make "
            f"it with:\n  {command('train')} -m +benchmark={suite.name} benchmark.stage=tune"
        )
    record: Any = OmegaConf.to_container(OmegaConf.load(path))
    both = sorted(set(record["seeds"]) & set(suite.seeds))
    if both:
        raise UserError(
            f"Seeds {both} chose the settings in '{path}'; they cannot be reported. Change benchmark.seeds."
        )
    return record


def record_of(suite: BenchmarkConfig) -> dict[str, Any]:
    """Returns what a report says about how the settings came to be; empty where they are untuned."""
    return {} if suite.tuned is None else {"file": suite.tuned, **_load(Path(suite.tuned), suite)}
