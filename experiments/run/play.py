"""Records videos of the trained agent on each task: play=RUN_DIR."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gymnasium.utils.save_video import save_video

from isorl.configs import RunConfig, UserError
from isorl.envs.task_env import TaskEnv
from isorl.experiments import plugins
from isorl.experiments.run.checkpoint_manager import CheckpointManager
from isorl.experiments.run.evaluation import act, random_streams_preserved
from isorl.experiments.run.experiment import Parts, build
from isorl.experiments.run.folder import RunFolder, file_name
from isorl.experiments.run.returns import Returns
from isorl.experiments.run.run_state import RunState
from isorl.experiments.terminal import explain

MAX_STEPS = 1_000
"""Agent steps after which a video ends: about a minute of an Atari game."""


def play(run_dir: str) -> list[Path]:
    """Records one episode per task into RUN_DIR/videos; returns the files.

    Raises:
        UserError: no run or no checkpoint there, or an environment that cannot draw itself.
    """
    folder = RunFolder.existing(run_dir)
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
            modes = env.env.metadata.get("render_modes") or "none"
            raise UserError(
                f"Task '{task.name}' ({task.env}) cannot be drawn: {explain(error)}. "
                f"A video needs the render mode 'rgb_array'; the environment has: {modes}."
            ) from error
        finally:
            env.close()
        name = f"task{task.index}-{file_name(task.name)}"
        save_video(frames, str(videos), episode_trigger=lambda episode: True, fps=fps, name_prefix=name)
        files.append(videos / f"{name}-episode-0.mp4")
    parts.env.close()
    return files


def restored(folder: RunFolder, config: RunConfig) -> Parts:
    """Returns the parts of the run in `folder` with the weights of its newest checkpoint, to look at, not to train.

    Raises:
        UserError: there is no checkpoint.
    """
    parts = build(config)
    if not CheckpointManager(folder, config.checkpoint, parts.agent).load(
        RunState(Returns(parts.sequence.visits))
    ):
        raise UserError(f"There is no checkpoint in '{folder.path}': the run stopped before it wrote one.")
    parts.agent.policy.set_training_mode(False)
    return parts


def _frames(parts: Parts, env: TaskEnv, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    observations = env.reset(seed)
    frames = _drawn(env)
    for _ in range(MAX_STEPS):
        actions = act(parts.agent, observations, False, rng, env.allowed)
        step = env.step(actions)
        if step.episodes:
            break
        observations = step.observations
        frames += _drawn(env)
    return frames


def _drawn(env: TaskEnv) -> list[np.ndarray]:
    frames = env.render()
    if not all(isinstance(frame, np.ndarray) for frame in frames):
        raise UserError(f"it drew {type(frames[0]).__name__} instead of a picture")
    return frames
