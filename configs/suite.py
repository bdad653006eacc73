"""Defines a benchmark: which arms learn which sequences on which seeds, and how their settings are chosen."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field, replace
from typing import Any

from isorl.configs.errors import UserError, nearest


@dataclass
class TuningConfig:
    """Says how settings are chosen: every arm gets the same number of candidates, on seeds that are never reported."""

    seeds: list[int]
    budget: int
    """Gives the candidates per arm and sequence: the whole space where it is that small, else a random draw."""
    space: dict[str, list[Any]]
    """Maps a KEY to its values, for every arm."""
    rungs: list[int] | None = None
    """Gives the numbers of seeds on which all candidates, the better half, the better quarter, ... are judged; null:
    all on all seeds."""
    refine: int = 0
    """Gives how many candidates of the budget are kept for the end: beyond the edges of ranges at which the best one
    stands, and beside it."""
    of_arm: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    """Maps an arm to further keys of its own; its budget stays the same."""
    of_sequence: dict[str, list[str]] = field(default_factory=dict)
    """Maps a sequence to words that make it shorter for tuning."""

    def __post_init__(self) -> None:
        rungs = self.rungs
        if rungs is not None and not (
            rungs and rungs == sorted(set(rungs)) and rungs[0] > 0 and rungs[-1] <= len(self.seeds)
        ):
            raise UserError(
                f"benchmark.tuning.rungs is {rungs}; it must be numbers of seeds that rise, at most {len(self.seeds)}, "
                "as many as benchmark.tuning.seeds has: [1,2,4]."
            )
        if not 0 <= self.refine < self.budget:
            raise UserError(
                f"benchmark.tuning.refine is {self.refine}; it must be at least 0 and below the budget, {self.budget}."
            )


@dataclass
class BenchmarkConfig:
    """Describes a grid of arms x sequences x seeds. A *word* is one KEY=VALUE of the command line."""

    name: str
    about: str
    arms: dict[str, list[str]]
    """Maps an arm's name in the report to its words."""
    sequences: dict[str, list[str]]
    """Maps a sequence's name in the report to its words."""
    seeds: list[int]
    words: list[str] = field(default_factory=list)
    """Holds the words of every cell."""
    baseline: str | None = None
    """Names the arm with which the report compares all others; null: the first."""
    references: list[str] = field(default_factory=lambda: ["fresh", "random"])
    """Lists what results are compared with: fresh, the same learner from scratch on every task; random, an agent
    that acts uniformly at random."""
    imports: list[str] = field(default_factory=list)
    """Names modules and files that register what the arms and sequences name, as `imports` of a run."""
    tuning: TuningConfig | None = None
    tuned: str | None = None
    """Names the file of chosen settings, as written by `benchmark.stage=tune`; null takes the words as they are."""
    stage: str = "report"
    """Says what is run: report, the arms on `seeds`; tune, candidates on `tuning.seeds`."""
    only: list[str] = field(default_factory=list)
    """Names arms and sequences to which a piece of the benchmark keeps itself; without any of a kind, all of it."""

    def __post_init__(self) -> None:
        for what in ("arms", "sequences", "seeds"):
            if not getattr(self, what):
                raise UserError(f"benchmark.{what} is empty: a grid needs at least one.")
        if self.stage not in ("report", "tune"):
            raise UserError(f"benchmark.stage is '{self.stage}'; it must be 'report' or 'tune'.")
        if self.baseline is not None and self.baseline not in self.arms:
            raise UserError(f"benchmark.baseline is no arm. {nearest(self.baseline, self.arms)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"benchmark.seeds names a seed twice: {self.seeds}.")
        self._check_tuning()
        self._keep_only()

    def _check_tuning(self) -> None:
        if self.tuning is None:
            if self.stage == "tune":
                raise UserError(
                    f"Benchmark '{self.name}' says nothing about tuning; give it 'benchmark.tuning'."
                )
            return
        for arm in self.tuning.of_arm:
            if arm not in self.arms:
                raise UserError(
                    f"benchmark.tuning.of_arm names '{arm}', which is no arm. {nearest(arm, self.arms)}"
                )
        for name in self.tuning.of_sequence:
            if name not in self.sequences:
                raise UserError(
                    f"benchmark.tuning.of_sequence names '{name}', which is no sequence. "
                    f"{nearest(name, self.sequences)}"
                )
        both = sorted(set(self.seeds) & set(self.tuning.seeds))
        if both:
            raise UserError(
                f"Seeds {both} would both choose settings and report results, which flatters whoever was tuned most. "
                "Keep benchmark.seeds and benchmark.tuning.seeds apart."
            )

    def _keep_only(self) -> None:
        """Leaves out the arms and sequences that `only` leaves out, and what is said of them."""
        for name in self.only:
            if name not in self.arms and name not in self.sequences:
                known = [*self.sequences, *self.arms]
                raise UserError(
                    f"benchmark.only names '{name}', which is neither a sequence nor an arm. {nearest(name, known)}"
                )
        self.arms = _chosen(self.arms, self.only) or self.arms
        self.sequences = _chosen(self.sequences, self.only) or self.sequences
        self.only = []
        if self.baseline not in self.arms:
            self.baseline = None
        if self.tuning is not None:
            of_arm, of_sequence = self.tuning.of_arm, self.tuning.of_sequence
            self.tuning = replace(
                self.tuning,
                of_arm=_chosen(of_arm, self.arms),
                of_sequence=_chosen(of_sequence, self.sequences),
            )

    def to_tune(self) -> BenchmarkConfig:
        """Returns the same arms on the sequences and seeds of tuning."""
        assert self.tuning is not None  # the schema demands it for this stage
        shorter = self.tuning.of_sequence
        sequences = {name: [*words, *shorter.get(name, ())] for name, words in self.sequences.items()}
        # scores need no diagnostics, which are a third of the time of short cells
        words = [*self.words, "diagnostics.every=0"]
        return replace(
            self,
            words=words,
            sequences=sequences,
            seeds=self.tuning.seeds,
            baseline=None,
            tuning=None,
            stage="report",
        )


def _chosen(entries: dict[str, Any], names: Container[str]) -> dict[str, Any]:
    return {name: entry for name, entry in entries.items() if name in names}
