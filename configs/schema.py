"""Defines the typed shape of a run, with the unit of every number.

An *agent step* is one action of one environment copy (what stable-baselines3 counts as a timestep); a *frame* is one
emulator frame, `frame_skip` of them per agent step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from isorl.configs.errors import UserError, nearest


def _at_least(minimum: float, **values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not value >= minimum:
            raise UserError(f"'{name}' is {value}; it must be at least {minimum:g}.")


def _at_most(maximum: float, **values: float) -> None:
    for name, value in values.items():
        if not value <= maximum:
            raise UserError(f"'{name}' is {value}; it must be at most {maximum:g}.")


def _one_of(choices: tuple[str, ...], **values: str) -> None:
    for name, value in values.items():
        if value not in choices:
            raise UserError(f"'{name}' cannot be '{value}'. {nearest(value, choices)}")


@dataclass
class TaskConfig:
    """Describes one task of a sequence, or `count` tasks that differ only in what is drawn for each.

    Anywhere in `kwargs` and `shifts` a value may be left to be filled in once per task: `task_seed` (an integer
    drawn anew), `sequence_seed` (the same for all tasks), `task_index` (0 to count - 1), or a draw
    `{uniform: [low, high]}`, `{log_uniform: [low, high]}`, `{normal: [mean, std]}`, `{choice: [a, b, ...]}`.
    """

    env: str
    """Names the environment by its Gymnasium id: CartPole-v1, ALE/Breakout-v5, my_package:MyGrid-v0, ..."""
    name: str | None = None
    """Names the task in tables and TensorBoard; null takes the environment's own name."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Holds the arguments of gymnasium.make."""
    wrappers: list[Any] = field(default_factory=list)
    """Lists Gymnasium's wrappers, innermost first: `FlattenObservation`, `{name: minigrid:ImgObsWrapper}`, with
    arguments beside the name."""
    channels: str | None = None
    """Says where the channels of its images stand, first (C, H, W) or last (H, W, C); null: the environment
    says it (metadata["channels"]), or it is found where it is certain."""
    shifts: list[dict[str, Any]] = field(default_factory=list)
    """Lists transformations of what the agent sees or does: `{name: rotate_observation, seed: task_seed}`."""
    drift: dict[str, float] = field(default_factory=dict)
    """Lets arguments move evenly from their value in `kwargs` to this one during the visit, episode by episode."""
    evaluation: dict[str, Any] = field(default_factory=dict)
    """Holds arguments that replace those of `kwargs` when the task is evaluated."""
    agent_steps: int | None = None
    """Gives the length of one visit in agent steps, summed over the environment copies; its limit, if one of the
    next two ends it earlier."""
    frames: int | None = None
    """Gives the same length in frames, instead of `agent_steps`."""
    episodes: int | None = None
    """Ends the visit with this many episodes, counted over all copies."""
    return_threshold: float | None = None
    """Ends the visit when the mean raw return of the last `return_window` episodes reaches this."""
    return_window: int = 20
    """Gives the number of episodes over which that mean is taken."""
    count: int = 1
    """Says how many tasks to make of this entry."""

    def __post_init__(self) -> None:
        at_least_one = ("count", "agent_steps", "frames", "episodes", "return_window")
        _at_least(1, **{name: getattr(self, name) for name in at_least_one})
        _at_most(1e6, count=self.count)
        if (self.agent_steps is None) == (self.frames is None):
            raise UserError(f"Task '{self.env}' needs a length: either 'agent_steps' or 'frames', not both.")
        if self.channels is not None:
            _one_of(("first", "last"), channels=self.channels)
        if self.episodes is not None and self.return_threshold is not None:
            raise UserError(f"Task '{self.env}' can end by 'episodes' or by 'return_threshold', not by both.")
        for key in self.drift:
            if key not in self.kwargs:
                raise UserError(f"Task '{self.env}': 'drift.{key}' needs its first value in 'kwargs.{key}'.")


@dataclass
class SequenceConfig:
    """Describes a list of tasks, visited `cycles` times."""

    name: str
    """Names the sequence in tables and folders."""
    tasks: list[TaskConfig]
    """Lists the tasks."""
    cycles: int = 1
    """Says how many times the list is gone through; `isorl resume` can raise it."""
    order: str = "fixed"
    """Orders the visits: fixed, as listed | shuffled, each cycle in a new random order | sampled, every visit drawn
    from the other tasks, `cycles` times as many visits as tasks."""
    switch: str = "step"
    """Switches at the step where the length is reached (step), or at the first end of an episode after it
    (episode_end)."""
    announce: bool = False
    """Appends the task's index to the observation (one-hot numbers, or image planes of 0 and 255)."""
    seed: int | None = None
    """Seeds the draws that make the tasks and their order; null: the run's seed, so every seed sees its own."""
    source: str = ""
    """Says where the protocol comes from."""
    tuning: dict[str, Any] = field(default_factory=dict)
    """Holds hyper-parameters of each agent for this family (and of `evaluation`); they replace the defaults, not
    your overrides."""

    def __post_init__(self) -> None:
        _at_least(1, **{"sequence.cycles": self.cycles})
        _at_most(1e6, **{"sequence.cycles": self.cycles})
        _at_least(0, **{"sequence.seed": self.seed})
        _one_of(("fixed", "shuffled", "sampled"), **{"sequence.order": self.order})
        _one_of(("step", "episode_end"), **{"sequence.switch": self.switch})
        if not self.tasks:
            raise UserError(f"Sequence '{self.name}' has no tasks.")
        if self.order == "sampled" and sum(task.count for task in self.tasks) < 2:
            raise UserError("'sequence.order' is 'sampled', which needs at least two tasks to choose from.")


@dataclass
class SwitchConfig:
    """Says what happens to the learner's own state when the task switches (not to its weights)."""

    optimizer: str = "keep"
    """Keeps or resets the moments of the optimizer: keep | reset."""
    replay: str = "clear"
    """Treats DQN's replay buffer: keep | clear. After clearing, DQN acts at random for `learning_starts` steps."""
    exploration: str = "visit"
    """Runs DQN's epsilon schedule over each visit, or once over the run: visit | run."""
    learning_rate: str = "run"
    """Runs the learning-rate schedule once over the run, or anew over each visit: run | visit."""
    normalizer: str = "keep"
    """Keeps or resets the running statistics of observations and rewards: keep | reset."""

    def __post_init__(self) -> None:
        _one_of(("keep", "reset"), optimizer=self.optimizer, normalizer=self.normalizer)
        _one_of(("keep", "clear"), replay=self.replay)
        _one_of(("run", "visit"), exploration=self.exploration, learning_rate=self.learning_rate)


@dataclass
class NormalizeConfig:
    """Configures running normalisation by stable-baselines3's VecNormalize."""

    observations: bool = False
    """Normalises observations to mean 0 and variance 1."""
    rewards: bool = False
    """Divides rewards by the standard deviation of the discounted return."""
    statistics: str = "shared"
    """Says whether all tasks share the statistics: shared | per_task."""

    def __post_init__(self) -> None:
        _one_of(("shared", "per_task"), **{"normalize.statistics": self.statistics})


@dataclass
class DiagnosticsConfig:
    """Says when and on what the plasticity of the networks is measured."""

    every: int = 10_000
    """Gives the agent steps between measurements; one more is made at the end of every visit. 0: never."""
    probe_size: int = 64
    """Gives the number of observations in the fixed probe batch of each task."""
    metrics: list[str] | None = None
    """Names the metrics; null takes the default set."""

    def __post_init__(self) -> None:
        _at_least(0, **{"diagnostics.every": self.every})
        _at_least(2, **{"diagnostics.probe_size": self.probe_size})


@dataclass
class EvaluationConfig:
    """Says how every task is played after every visit; the training's random streams are left untouched."""

    episodes: int = 5
    """Gives the episodes per task; 0 turns evaluation off."""
    deterministic: bool = False
    """Acts greedily; false: PPO samples its policy, DQN acts with its final epsilon."""
    max_episode_steps: int | None = None
    """Cuts an episode after this many agent steps and counts its return as it stands; null: plays to its end."""

    def __post_init__(self) -> None:
        _at_least(0, **{"evaluation.episodes": self.episodes})
        _at_least(1, **{"evaluation.max_episode_steps": self.max_episode_steps})


@dataclass
class CheckpointConfig:
    """Says when the run is saved so that `resume=RUN_DIR` can continue it."""

    every: int = 100_000
    """Gives the agent steps between checkpoints; one more is written at the end and on Ctrl-C."""
    replay: bool = True
    """Saves DQN's replay buffer too. Without it, a resumed run starts with an empty one."""
    keep: int = 2
    """Gives the number of kept checkpoints: if the newest is damaged, the run is resumed from the one before."""

    def __post_init__(self) -> None:
        _at_least(1, **{"checkpoint.every": self.every, "checkpoint.keep": self.keep})
        _at_most(100, **{"checkpoint.keep": self.keep})


@dataclass
class FaultsConfig:
    """Says what a run does about numbers and environments that fail."""

    numbers: str = "stop"
    """Treats a loss, gradient, observation or reward that is not finite: stop | skip (the update is left out, the
    number becomes 0; both are counted)."""
    environment: str = "stop"
    """Treats a copy of an environment that raises or gives another shape: stop | restart (its episode is cut short,
    counted and not reported)."""
    isolate: bool = False
    """Plays every copy in a process of its own, where it may hang or die: both are treated as `environment` says."""
    step_seconds: float = 60.0
    """Gives the seconds after which a step counts as hanging, with `isolate`."""

    def __post_init__(self) -> None:
        _at_least(0.01, **{"faults.step_seconds": self.step_seconds})
        _at_most(1e6, **{"faults.step_seconds": self.step_seconds})
        _one_of(("stop", "skip"), **{"faults.numbers": self.numbers})
        _one_of(("stop", "restart"), **{"faults.environment": self.environment})


@dataclass
class RunConfig:
    """Describes one training run. The parts without a class here are checked by what they configure."""

    agent: dict[str, Any]
    """Names the learner, `agent=NAME`, and holds its options."""
    network: dict[str, Any]
    """Describes the body of the networks, `network=NAME`."""
    optimizer: dict[str, Any]
    """Names the optimizer, `optimizer=NAME`, and holds its options."""
    sequence: SequenceConfig
    run_dir: str
    """Names the folder that the run writes, which must not exist or be empty."""
    method: dict[str, Any] = field(default_factory=dict)
    """Names the plasticity methods, `method=[A,B]`, in the order in which they act, and holds their options."""
    switch: SwitchConfig = field(default_factory=SwitchConfig)
    normalize: NormalizeConfig = field(default_factory=NormalizeConfig)
    diagnostics: DiagnosticsConfig = field(default_factory=DiagnosticsConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    faults: FaultsConfig = field(default_factory=FaultsConfig)
    seed: int = 0
    """Seeds everything that is drawn: weights, actions, environments, tasks where the sequence has no seed."""
    device: str = "auto"
    """Says where the networks live: auto | cpu | cuda."""
    threads: int = 1
    """Gives the number of torch threads; one is fastest for small networks and on busy machines."""
    log_every: int = 2_000
    """Gives the agent steps between two rows of training curves in the loggers and metrics.jsonl."""
    logger: list[str] = field(default_factory=lambda: ["tensorboard"])
    """Names where measurements go besides metrics.jsonl: tensorboard, csv, wandb, trackio, mlflow, or your own."""
    imports: list[str] = field(default_factory=list)
    """Names modules and files of the user's own that register what this run names; configs/imports.py has the rules."""

    def __post_init__(self) -> None:
        if self.normalize.statistics == "per_task" and self.switch.normalizer == "reset":
            raise UserError(
                "'normalize.statistics=per_task' and 'switch.normalizer=reset' contradict each other."
            )
        _at_least(0, seed=self.seed)
        _at_least(1, threads=self.threads, log_every=self.log_every)
