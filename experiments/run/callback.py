"""Accompanies a learner while it learns: one callback that counts, measures, evaluates, records and saves.

It reads from the agent and never changes it: with or without it, the same weights come out.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor

from isorl.agents.policies import preprocess
from isorl.configs import RunConfig
from isorl.envs.normalize import statistics_of
from isorl.envs.sequence import Sequence, Visit
from isorl.experiments.run import dashboard
from isorl.experiments.run.checkpoint_manager import CheckpointManager
from isorl.experiments.run.divergence import DivergenceMonitor
from isorl.experiments.run.evaluation import Evaluator, random_streams_preserved
from isorl.experiments.run.folder import LOG
from isorl.experiments.run.progress import ProgressBar
from isorl.experiments.run.recording import Recorder
from isorl.experiments.run.run_state import RunState
from isorl.experiments.run.stopping import StopRequest
from isorl.experiments.terminal import say
from isorl.plasticity.diagnostics import DEFAULT_METRICS, diagnose, snapshot

DRAWING_SHARE = 0.01
"""Share of the time that pictures may take before the last; one takes a tenth of a second."""


class RunCallback(BaseCallback):
    """Counts, measures, evaluates, records and saves while one run goes on.

    Args:
        config: cadences and switches.
        checkpoints: of snapshots and checkpoints.
        sequence: the schedule.
        state: what has been gathered so far.
        recorder: where measurements go.
        evaluator: plays tasks.
        probes: probe batch of each task.
        initial: weights before any training.
        divergence: finds weights that are not finite.
        progress: the bar.
    """

    def __init__(
        self,
        config: RunConfig,
        checkpoints: CheckpointManager,
        sequence: Sequence,
        state: RunState,
        recorder: Recorder,
        evaluator: Evaluator,
        probes: list[np.ndarray],
        initial: dict[str, Tensor],
        divergence: DivergenceMonitor,
        progress: ProgressBar,
    ) -> None:
        super().__init__()
        self.config, self.checkpoints, self.sequence = config, checkpoints, sequence
        self.state, self.recorder, self.evaluator = state, recorder, evaluator
        self.probes, self.initial, self.divergence, self.progress = probes, initial, divergence, progress
        self.visit: Visit = recorder.visit
        self._shown_return: float | None = None
        self.stop = StopRequest()
        self._started = self._began = time.monotonic()
        self._drawing_seconds = 0.0
        self._has_saved = False

    def _on_training_start(self) -> None:
        self._note_engine()
        step = self.model.num_timesteps
        self._due = {
            "log": _next_multiple(step, self.config.log_every),
            "measure": _next_multiple(step, self.config.diagnostics.every),
            "save": _next_multiple(step, self.config.checkpoint.every),
        }
        self._started = self._began = time.monotonic()
        if step == 0:
            self._begin_visit()
            self._measure(step)

    def _on_rollout_start(self) -> None:
        """Between two rollouts the agent is whole: the moment to save, to log and to stop."""
        step = self.model.num_timesteps
        self._record_notes(step)
        if self._is_due("log", step, self.config.log_every):
            self._record_returns(step)
            self.model.dump_logs()
            self.divergence.check()
        if self._is_due("save", step, self.config.checkpoint.every):
            self.save()
        elif self.checkpoints.is_due or self.stop.number is not None:
            self.checkpoints.take(self._gathered)
        self.stop.check()

    def _on_step(self) -> bool:
        step = self.model.num_timesteps
        self.state.returns.add(self.locals["infos"], step)
        self.progress.update(step, self.visit, len(self.sequence.visits), self._shown_return)
        env: Any = self.training_env.unwrapped
        now_in: Visit = env.visit
        if now_in.number != self.visit.number:
            self._end_visit(step, now_in.start)
            self.visit = self.recorder.visit = now_in
            self._begin_visit()
        elif self._is_due("measure", step, self.config.diagnostics.every):
            self._measure(step)
        ended_early = env.finished and step < self.sequence.agent_steps
        return not ended_early

    def _on_training_end(self) -> None:
        step = self.model.num_timesteps
        self._record_notes(step)
        self.checkpoints.write()  # the latest from before the end: a run with more cycles goes on from there
        self._end_visit(step, min(step, self.visit.end))
        self.save()
        self._note_engine()  # again: a run whose kernels disagree with its modules goes on by the modules

    @property
    def _agent(self) -> Any:
        return self.model

    def _note_engine(self) -> None:
        self.checkpoints.folder.note(engine=self._agent.engine._asdict())

    def save(self) -> None:
        """Writes a checkpoint."""
        self.checkpoints.take(self._gathered)
        self.checkpoints.write()
        if not self._has_saved:
            self._has_saved = True
            for message in self._agent.methods.forgotten():
                LOG.warning(message)
                say(message, style="yellow")

    def _gathered(self) -> dict[str, Any]:
        """What a checkpoint holds besides the agent, whose numbers are sound."""
        self.divergence.check()
        self.state.seconds += (time.monotonic() - self._started) / self._agent.num_runs_in_process
        self.state.together.add(self._agent.num_runs_in_process)
        self._started = time.monotonic()
        self.state.records = self.recorder.sizes()
        return self.state.state_dict()

    def _begin_visit(self) -> None:
        task = self.visit.task
        LOG.info("visit %d begins at agent step %d: %s", self.visit.number, self.visit.start, task)
        self.recorder.record({"task/index": task.index, "task/visit": self.visit.number}, self.visit.start)
        self._shown_return = None

    def _end_visit(self, step: int, end: int) -> None:
        """The last words of a visit: its returns, a measurement, an evaluation of all tasks, the pictures."""
        self._record_returns(step)
        returns = self.state.returns.by_visit[self.visit.number]
        returns.visit = replace(self.visit, end=end)
        row = returns.row()
        name = self.visit.task.name
        values: dict[str, Any] = {f"visit/return_{part}/{name}": row[part] for part in ("mean", "end")}
        self.state.diagnostics.append(self._measure(step))
        if self.config.evaluation.episodes:
            values |= self._evaluate()
        self.recorder.record({key: value for key, value in values.items() if not _is_nan(value)}, step)
        if self._is_drawn():
            self._draw(step)
        LOG.info("visit %d ends at agent step %d: %s", self.visit.number, step, row)

    def _is_drawn(self) -> bool:
        """After visits 1, 2, 4, 8, ... where it has not taken too much time so far, and after the last."""
        count = self.visit.number + 1
        if count == len(self.sequence.visits):
            return True
        allowed = DRAWING_SHARE * (time.monotonic() - self._began) / self._agent.num_runs_in_process
        return count & (count - 1) == 0 and self._drawing_seconds <= allowed

    def _draw(self, step: int) -> None:
        """The pictures of the run so far."""
        begin = time.monotonic()
        so_far = self.state.returns.by_visit[: self.visit.number + 1]
        values = {"dashboard/returns": dashboard.returns_figure(so_far)}
        if self.state.evaluations:
            names = [task.name for task in self.sequence.tasks]
            values["eval/matrix"] = dashboard.matrix_figure(names, self.state.evaluations)
        self.recorder.record(values, step)
        self._drawing_seconds += time.monotonic() - begin

    def _evaluate(self) -> dict[str, Any]:
        tasks = self.sequence.tasks
        scores = [self.evaluator.mean_return(self.model, task) for task in tasks]
        self.state.evaluations.append(scores)
        names = [task.name for task in tasks]
        values: dict[str, Any] = {f"eval/{name}": score for name, score in zip(names, scores, strict=True)}
        values["eval/mean"] = float(np.mean(scores))
        values["eval/table"] = dashboard.matrix_text(names, self.state.evaluations)
        return values

    def _measure(self, step: int) -> dict[str, float]:
        """Plasticity of the networks on the probe batch of the present task."""
        if not self.config.diagnostics.every:
            return {}
        begin = time.monotonic()
        observations: Any = self.probes[self.visit.task.index]
        normalizer = self.model.get_vec_normalize_env()
        if normalizer is not None:
            with statistics_of(normalizer, self.visit.task.index):
                observations = normalizer.normalize_obs(observations)
        networks = self.model.policy.networks()  # type: ignore[operator]
        metrics = self.config.diagnostics.metrics or DEFAULT_METRICS
        with random_streams_preserved():
            values = diagnose(
                networks,
                preprocess(self.model.policy, observations),
                metrics=metrics,
                reference=self.initial,
                previous=self.state.previous,
            )
        if any(name.startswith("churn") for name in metrics):  # churn is change since the last measurement
            self.state.previous = snapshot(networks)
        self.recorder.record(values, step)
        self.state.measuring_seconds += time.monotonic() - begin
        return {key: float(value) for key, value in values.items() if not isinstance(value, Tensor)}

    def _record_returns(self, step: int) -> None:
        failures = self.divergence.failures.counts
        if failures:
            self.recorder.record({f"faults/{what}": count for what, count in failures.items()}, step)
        mean = self.state.returns.take_recent()
        if mean is not None:
            self._shown_return = mean
            self.recorder.record(
                {f"return/{self.visit.task.name}": mean, "task/index": self.visit.task.index}, step
            )

    def _record_notes(self, step: int) -> None:
        """What methods have measured or decided since the last rollout."""
        for name, note in self._agent.methods.take_notes():
            self.recorder.record({f"method/{name}/{key}": value for key, value in note.values.items()}, step)
            if note.said:
                LOG.info("%s: %s", name, note.said)

    def _is_due(self, what: str, step: int, every: int) -> bool:
        if not every or step < self._due[what]:
            return False
        self._due[what] = _next_multiple(step, every)
        return True


def _next_multiple(step: int, every: int) -> int:
    return (step // every + 1) * every if every else 0


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value
