"""Writes docs/sequences.md and its pictures: `python -m docs.draw_sequences [NAME ...]`.

Of every sequence: the comment of its file, its source, and a picture with the schedule (one colour per task) above one
frame per task, as drawn by the environment or, for images, as the agent sees it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import matplotlib
import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

matplotlib.use("Agg")
os.environ.setdefault("MUJOCO_GL", "egl")  # draws without a screen
from matplotlib import pyplot as plt
from matplotlib.ticker import EngFormatter

from isorl.configs import SequenceConfig, UserError, typed
from isorl.configs.command_line import FOLDER, groups, register_resolvers
from isorl.envs import Sequence
from isorl.envs.sequence import Task
from isorl.envs.task_env import TaskEnv

DOCS = Path(__file__).parent
PICTURES = DOCS / "img" / "sequences"
SHOWN, STEPS, COPIES = 6, 25, 8
INTRODUCTION = (DOCS / "sequences.in.md").read_text()


def main(names: list[str]) -> None:
    """Draws the sequences `names`, or all, and writes the page."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name in names or sequences():
        try:
            picture(_load(name)).savefig(PICTURES / f"{name}.png", dpi=80)
        except UserError as error:  # data that is not on this machine
            print(f"{name} is not drawn: {error}", file=sys.stderr)
        plt.close("all")
    (DOCS / "sequences.md").write_text(page())


def sequences() -> list[str]:
    """Returns the names of all sequences but the variants for tests."""
    return [name for name in groups()["sequence"] if not name.endswith("-smoke")]


def page() -> str:
    """Returns the page in Markdown, with the pictures that are there."""
    return "\n\n".join([INTRODUCTION.rstrip(), *(_section(name) for name in sequences())]) + "\n"


def picture(config: SequenceConfig) -> plt.Figure:
    """The schedule above one frame per task."""
    sequence = Sequence.from_config(config, seed=0, n_envs=COPIES)
    shown = sequence.tasks[:SHOWN]
    figure = plt.figure(figsize=(9, 2.7), layout="constrained")
    grid = figure.add_gridspec(2, SHOWN, height_ratios=(1, 4))
    _draw_schedule(figure.add_subplot(grid[0, :]), sequence)
    for column, task in enumerate(shown):
        axes = figure.add_subplot(grid[1, column])
        axes.set_title(task.name, fontsize=8, color=_colour(sequence, task))
        axes.axis("off")
        axes.set_anchor("N")
        frame = _frame(task)
        if frame is None:
            axes.text(0.5, 0.5, "no picture", ha="center", fontsize=7, transform=axes.transAxes)
        else:
            axes.imshow(frame, cmap="gray" if frame.ndim == 2 else None)
    more = f" (first {SHOWN} of {len(sequence.tasks)} tasks)" if len(sequence.tasks) > SHOWN else ""
    figure.suptitle(sequence.name + more, fontsize=9)
    return figure


def _draw_schedule(axes: plt.Axes, sequence: Sequence) -> None:
    starts = [visit.start for visit in sequence.visits]
    lengths = [visit.agent_steps for visit in sequence.visits]
    colours = [_colour(sequence, visit.task) for visit in sequence.visits]
    axes.barh(
        np.zeros(len(starts)), lengths, left=starts, color=colours, height=1, edgecolor="white", linewidth=0.3
    )
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.set_xlim(0, sequence.agent_steps)
    axes.set_yticks([])
    axes.tick_params(labelsize=7)
    axes.set_xlabel("agent steps", fontsize=7, labelpad=1)
    axes.spines[:].set_visible(False)


def _colour(sequence: Sequence, task: Task) -> tuple[float, ...]:
    return plt.get_cmap("turbo")(0.08 + 0.84 * task.index / max(len(sequence.tasks) - 1, 1))


def _frame(task: Task) -> np.ndarray | None:
    """The agent's own view of an image task, else the environment's drawing; None where it cannot draw here."""
    env = TaskEnv(task, 1)
    space = env.observation_space
    is_image = len(space.shape) == 3 and (
        space.shape[0] == 1 or space.high.max() > 1
    )  # else planes of objects
    if not is_image:
        env.close()
        try:
            env = TaskEnv(task, 1, render=True)
        except UserError:
            return None
    try:
        observation = env.reset(seed=0)
        env.action_space.seed(0)
        for _ in range(STEPS):
            observation = env.step(np.stack([env.action_space.sample()])).observations
        return observation[0, -1] if is_image else env.render()[0]
    except Exception as error:  # no OpenGL on this machine
        print(f"{task.name}: {error}", file=sys.stderr)
        return None
    finally:
        env.close()


def _load(name: str) -> SequenceConfig:
    register_resolvers()
    with initialize_config_dir(version_base=None, config_dir=str(FOLDER)):
        composed = compose("config", overrides=[f"sequence={name}"])
    return typed(SequenceConfig, OmegaConf.to_container(composed.sequence, resolve=True))  # type: ignore[arg-type]


def _section(name: str) -> str:
    lines = (FOLDER / "sequence" / f"{name}.yaml").read_text().splitlines()
    comment = " ".join(line[1:].strip() for line in lines if line.startswith("#") and "@package" not in line)
    text = f"## {name}\n\n{comment}\n\nSource: {_load(name).source}."
    drawn = (PICTURES / f"{name}.png").exists()
    return f"{text}\n\n![{name}](img/sequences/{name}.png)" if drawn else text


if __name__ == "__main__":
    main(sys.argv[1:])
