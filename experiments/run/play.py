"""play=RUN_DIR: a video of the trained agent on each task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gymnasium.utils.save_video import save_video

from isorl.configs import RunConfig, UserError
from isorl.envs.task_env import TaskEnv
from isorl.experiments import plugins
from isorl.experiments.run.evaluation import act, random_streams_preserved
from isorl.experiments.run.experiment import Parts, build
from isorl.experiments.run.folder import RunFolder
from isorl.experiments.run.keeper import Keeper
from isorl.experiments.run.returns import Returns
from isorl.experiments.run.state import RunState

MAX_STEPS = 1_000
"""Agent steps after which a video ends: about a minute of an Atari game."""


def play(run_dir: str) -> list[Path]:
    """Records one episode per task into RUN_DIR/videos; gives back the files.

    Raises:
        UserError: no run or no checkpoint there, or an environment that cannot draw itself.
    """
    folder = RunFolder.existing(run_dir, "play")
    config = plugins.recorded(folder)
    parts = restored(folder, config)
    videos = folder.path / "videos"
    files = []
    for task in parts.sequence.tasks:
        env = TaskEnv(task.for_evaluation(), 1, parts.switching.common, render=True)
        try:
            with random_streams_preserved():
                frames = _frames(parts, env, config.seed)
            fps = env.env.metadata.get("render_fps", 30)
        except Exception as error:
            raise UserError(f"Task '{task.name}' cannot be drawn: {error}") from error
        finally:
            env.close()
        name = f"task{task.index}-{task.name}"
        save_video(frames, str(videos), episode_trigger=lambda episode: True, fps=fps, name_prefix=name)
        files.append(videos / f"{name}-episode-0.mp4")
    parts.env.close()
    return files


def restored(folder: RunFolder, config: RunConfig) -> Parts:
    """The parts of the run in `folder` with the weights of its newest checkpoint, for looking at, not for training.

    Raises:
        UserError: there is no checkpoint.
    """
    parts = build(config)
    if not Keeper(folder, config.checkpoint, parts.agent).load(RunState(Returns(parts.sequence.visits))):
        raise UserError(f"There is no checkpoint in '{folder.path}': the run stopped before it wrote one.")
    parts.agent.policy.set_training_mode(False)
    return parts


def _frames(parts: Parts, env: TaskEnv, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    observations = env.reset(seed)
    frames = env.render()
    for _ in range(MAX_STEPS):
        actions = act(parts.agent, observations, False, rng, env.allowed)
        step = env.step(actions)
        if step.episodes:
            break
        observations = step.observations
        frames += env.render()
    return frames
