"""From a task to the Gymnasium VectorEnv that plays it, all with same-step autoreset and an exact state.

ALE/...    ale_py's native AtariVectorEnv, or Gymnasium's Atari wrappers (envs/atari.py)
isorl/...  this project's numpy environments, vectorised natively; CartPole-v1 (envs/cartpole.py) and MinAtar/...
           (envs/minatar.py), too
others     gymnasium.make, with the task's wrappers, one by one (envs/copies.py)

With `faults.isolate` every copy of the first and the last kind lives in a process of its own (envs/isolated.py); what
is numpy alone cannot hang or die in C code, and stays.
"""

from __future__ import annotations

import functools
import inspect
import logging
import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import cloudpickle
import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, load_env_creator

from isorl.configs import UserError, imports, nearest
from isorl.envs import atari
from isorl.envs.cartpole import CartPoles
from isorl.envs.copies import Copies, Copy, make_env, spec_with
from isorl.envs.failures import EnvironmentFailed, Failures
from isorl.envs.isolated import IsolatedCopies
from isorl.envs.sequence import Task
from isorl.envs.worker import Failed

LOG = logging.getLogger("isorl")
MUJOCO = ("isorl/Slippery", "isorl/MetaWorld-", "dm_control/")
EXTRAS = {"box2d": "box2d", "mujoco": "mujoco"}
RUNNING_STATISTICS = {
    gymnasium.wrappers.NormalizeObservation: "normalize.observations",
    gymnasium.wrappers.NormalizeReward: "normalize.rewards",
}
WRAPPER_MODULES = {"gymnasium": "gymnasium.wrappers", "minigrid": "minigrid.wrappers"}


class TaskVectorEnv(Protocol):
    """Says what TaskEnv needs of a vector environment."""

    single_observation_space: spaces.Space
    single_action_space: spaces.Space
    metadata: dict[str, Any]

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts an episode in every copy."""

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Makes one agent step in every copy."""

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that later steps depend on."""

    def load_state_dict(self, state: Any) -> np.ndarray:
        """Restores it; returns the observations."""

    def render(self) -> Any:
        """Returns a frame of each copy."""

    def close(self) -> None:
        """Frees the environments."""


def make_vector_env(task: Task, n_envs: int, render: bool, failures: Failures | None = None) -> TaskVectorEnv:
    """Makes `n_envs` copies of `task`, without its shifts.

    Raises:
        UserError: wrong arguments, a wrapper that does not exist, or an extra that is not installed.
        EnvironmentFailed: a process of its own hung or died.
    """
    failures, render_mode = failures or Failures(), "rgb_array" if render else None
    try:
        if failures.config.isolate and not _in_numpy(task, render_mode):
            alone = replace(task, agent_steps=max(task.agent_steps // n_envs, 1))  # of one copy: its drift
            spec = cloudpickle.dumps(
                gymnasium.spec(task.env)
            )  # to be opened after the imports that it may need
            make = functools.partial(_make_alone, imports.named(), spec, alone, render)
            return IsolatedCopies(make, n_envs, failures)
        return _make(task, n_envs, render_mode, failures)
    except UserError:
        raise
    except Failed as error:
        raise EnvironmentFailed(f"Task '{task.name}' ({task.env}) cannot be made: {error}") from error
    except (gymnasium.error.Error, TypeError, ValueError, AssertionError, ImportError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].split(" was raised from")[0]
        raise UserError(
            f"Task '{task.name}' ({task.env}) cannot be made: {reason}{_missing_extra(error)}{_arguments(task, error)}"
        ) from None


def _arguments(task: Task, error: Exception) -> str:
    """Returns which arguments the environment takes, where it was given another one; else nothing."""
    if not isinstance(error, TypeError) or "unexpected keyword argument" not in str(error):
        return ""
    entry: Any = gymnasium.spec(task.env).entry_point
    try:
        taken = inspect.signature(load_env_creator(entry) if isinstance(entry, str) else entry).parameters
    except (ImportError, AttributeError, TypeError, ValueError):
        return ""
    names = [name for name in taken if name not in ("render_mode", "args", "kwargs")]
    return f". It takes {', '.join(names) or 'no arguments'}"


def _make_alone(named: list[str], pickled_spec: bytes, task: Task, render: bool) -> TaskVectorEnv:
    """Returns one copy, in a process that has imported nothing of the user's own yet."""
    imports.take(named)
    spec: EnvSpec = pickle.loads(pickled_spec)
    if isinstance(spec.entry_point, str):
        load_env_creator(spec.entry_point)  # a package that registers its environments would warn of this one
    gymnasium.registry.setdefault(task.env, spec)
    return make_vector_env(task, 1, render)


def _is_plain(task: Task, render_mode: str | None) -> bool:
    return render_mode is None and not task.wrappers and not task.drift


def _in_numpy(task: Task, render_mode: str | None) -> bool:
    """Whether all copies are a few arrays of this project's own."""
    if task.env == "CartPole-v1":
        return _is_plain(task, render_mode) and not task.kwargs
    ours = task.env.startswith(("isorl/", "MinAtar/"))
    return ours and _is_plain(task, None) and gymnasium.spec(task.env).vector_entry_point is not None


def _make(task: Task, n_envs: int, render_mode: str | None, failures: Failures) -> TaskVectorEnv:
    if task.is_atari and _is_plain(task, render_mode) and not atari.needs_classic(task.kwargs):
        return atari.make_native(task.env, n_envs, task.kwargs)
    if _in_numpy(task, render_mode):
        if task.env == "CartPole-v1":
            return CartPoles(n_envs)
        return gymnasium.make_vec(  # type: ignore[return-value]
            spec_with(task.env, task.kwargs), num_envs=n_envs, vectorization_mode="vector_entry_point"
        )
    make = functools.partial(_make_one, task, render_mode)
    drift_steps = max(task.agent_steps // n_envs, 1)

    def make_copy() -> gymnasium.Env:
        copy = Copy(make, task.kwargs, task.drift, drift_steps)
        return atari.LifeLost(copy) if task.is_atari else copy

    return Copies([make_copy] * n_envs, failures)


def _make_one(task: Task, render_mode: str | None, kwargs: Mapping[str, Any]) -> gymnasium.Env:
    drawn = kwargs if render_mode is None else {**kwargs, "render_mode": render_mode}
    if task.is_atari:
        env = atari.make_classic(task.env, drawn)
    else:
        if "mujoco" in str(gymnasium.spec(task.env).entry_point) or task.env.startswith(MUJOCO):
            _send_mujoco_warnings_to_the_log()
        env = make_env(task.env, drawn)
    for entry in task.wrappers:
        options = {"name": entry} if isinstance(entry, str) else dict(entry)
        env = _wrapper(str(options.pop("name", "")))(env, **options)
    _refuse_running_statistics(env)
    return env


def _refuse_running_statistics(env: gymnasium.Env) -> None:
    """They live on over episodes, inside of each copy: no checkpoint has them, and an evaluation begins its own."""
    layer = env
    while isinstance(layer, gymnasium.Wrapper):
        for kind, option in RUNNING_STATISTICS.items():
            if isinstance(layer, kind):
                env.close()
                raise UserError(
                    f"Wrapper '{kind.__name__}' keeps running statistics, which a resumed run would begin anew and an "
                    f"evaluation would not know. Use {option}=true instead."
                )
        layer = layer.env


@functools.cache
def _send_mujoco_warnings_to_the_log() -> None:
    """MuJoCo would print each one and append it to MUJOCO_LOG.TXT in the user's folder."""
    try:
        import mujoco
    except ImportError:
        return  # gymnasium.make says what is missing

    def record(message: str) -> None:
        LOG.log(logging.INFO if "deprecated" in message else logging.WARNING, "MuJoCo: %s", message)

    mujoco.set_mju_user_warning(record)


def _wrapper(name: str) -> Callable[..., gymnasium.Env]:
    """FlattenObservation -> gymnasium.wrappers.FlattenObservation, minigrid:X -> minigrid.wrappers.X; no other code."""
    package, _, class_name = name.rpartition(":")
    package = package or "gymnasium"
    if package not in WRAPPER_MODULES:
        raise UserError(
            f"Wrapper '{name}': wrappers come from {' or '.join(WRAPPER_MODULES)}, not from '{package}'."
        )
    module = __import__(WRAPPER_MODULES[package], fromlist=["wrappers"])
    known = [key for key, value in vars(module).items() if isinstance(value, type) and key[0].isupper()]
    known += list(getattr(module, "__all__", ()))
    if class_name not in known:
        raise UserError(f"There is no wrapper '{name}'. {nearest(class_name, known)}")
    return getattr(module, class_name)


def _missing_extra(error: Exception) -> str:
    for word, extra in EXTRAS.items():
        if word in str(error).lower() and isinstance(error, (ImportError, gymnasium.error.Error)):
            return f" Install it with: pip install -e '.[{extra}]'"
    return ""
