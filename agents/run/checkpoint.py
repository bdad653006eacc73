"""Everything a resumed run needs, in one file of tensors and plain values.

`torch.load(weights_only=True)` opens it: nothing in it can run code. A resumed run goes on in the middle of the
episodes that were being played.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecNormalize

from agents import Agent
from configs import UserError
from envs.normalize import TaskNormalize

COUNTERS = (
    "num_timesteps",
    "_n_updates",
    "_episode_num",
    "_current_progress_remaining",
    "visit_number",
    "visit_start",
    "visit_end",
    "learning_starts",  # DQN, moved by a cleared replay
    "exploration_rate",
    "_n_calls",
)


SEEN = ("_last_obs", "_last_episode_starts", "_last_original_obs")
"""What the learner saw last; with it stable-baselines3 goes on instead of resetting the environment."""


def save(path: Path, agent: Agent, run: dict[str, Any], with_replay: bool = True) -> None:
    """Writes the state of `agent`, of its environment and of `run` to `path`, whole or not at all."""
    state = {
        "policy": agent.policy.state_dict(),
        "optimizer": agent.policy.optimizer.state_dict(),
        "counters": {name: getattr(agent, name) for name in COUNTERS if hasattr(agent, name)},
        "methods": agent.methods.state_dict(),
        "environment": _tensors(agent.env.unwrapped.state_dict()),  # type: ignore[union-attr]
        "seen": _tensors({name: getattr(agent, name) for name in SEEN}),
        "normalizer": _normalizer_state(agent),
        "replay": _replay_state(agent) if with_replay else None,
        "random": _random_state(agent),
        "run": run,
    }
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load(path: Path, agent: Agent) -> dict[str, Any]:
    """Puts the saved state into `agent` and its environment; gives back `run`.

    Raises:
        UserError: the file is missing, damaged, or belongs to another network.
    """
    try:
        state = torch.load(path, map_location=agent.device, weights_only=True)
        agent.policy.load_state_dict(state["policy"])
        agent.policy.optimizer.load_state_dict(state["optimizer"])
    except FileNotFoundError:
        raise UserError(f"There is no checkpoint at '{path}': the run stopped before it wrote one.") from None
    except Exception as error:
        raise UserError(f"The checkpoint '{path}' cannot be used: {str(error).splitlines()[0]}") from error
    for name, value in state["counters"].items():
        setattr(agent, name, value)
    agent.methods.load_state_dict(state["methods"])
    agent.env.unwrapped.load_state_dict(_arrays(state["environment"]))  # type: ignore[union-attr]
    for name, value in state["seen"].items():
        setattr(agent, name, _arrays(value))
    _load_normalizer(agent, state["normalizer"])
    _load_replay(agent, state["replay"])
    _load_random(agent, state["random"])
    return state["run"]


def _tensors(value: Any) -> Any:
    """Arrays become tensors, which `torch.load(weights_only=True)` opens."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, dict):
        return {key: _tensors(entry) for key, entry in value.items()}
    return [_tensors(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _arrays(value: Any) -> Any:
    """Tensors become arrays."""
    if isinstance(value, torch.Tensor):
        return value.cpu().numpy()
    if isinstance(value, dict):
        return {key: _arrays(entry) for key, entry in value.items()}
    return [_arrays(entry) for entry in value] if isinstance(value, list) else value


def _normalizer_state(agent: Agent) -> dict[str, Any] | None:
    normalizer = agent.get_vec_normalize_env()
    if normalizer is None:
        return None
    statistics = {
        name: {"mean": torch.tensor(rms.mean), "var": torch.tensor(rms.var), "count": float(rms.count)}
        for name, rms in _statistics(normalizer).items()
    }
    return {**statistics, "discounted": torch.from_numpy(normalizer.returns.copy())}


def _load_normalizer(agent: Agent, state: dict[str, Any] | None) -> None:
    normalizer = agent.get_vec_normalize_env()
    if normalizer is None or state is None:
        return
    for name, rms in _statistics(normalizer).items():
        rms.mean, rms.var = state[name]["mean"].cpu().numpy(), state[name]["var"].cpu().numpy()
        rms.count = state[name]["count"]
    normalizer.returns = _arrays(state["discounted"])
    if isinstance(normalizer, TaskNormalize):
        normalizer.use(normalizer.unwrapped.task.index)  # type: ignore[attr-defined]


def _statistics(normalizer: VecNormalize) -> dict[str, Any]:
    if isinstance(normalizer, TaskNormalize):
        kinds = ("observations", "returns")
        return {
            f"{kind}/{task}": rms
            for task, both in enumerate(normalizer.by_task)
            for kind, rms in zip(kinds, both, strict=True)
        }
    return {"observations": normalizer.obs_rms, "returns": normalizer.ret_rms}


REPLAY_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def _replay_state(agent: Agent) -> dict[str, Any] | None:
    replay = getattr(agent, "replay_buffer", None)
    if replay is None:
        return None
    filled = replay.size()
    arrays = {name: torch.from_numpy(getattr(replay, name)[:filled].copy()) for name in REPLAY_ARRAYS}
    return {"pos": replay.pos, "full": replay.full, "arrays": arrays}


def _load_replay(agent: Agent, state: dict[str, Any] | None) -> None:
    replay = getattr(agent, "replay_buffer", None)
    if replay is None or state is None:
        return
    for name, values in state["arrays"].items():
        getattr(replay, name)[: len(values)] = values.cpu().numpy()
    replay.pos, replay.full = state["pos"], state["full"]


def _random_state(agent: Agent) -> dict[str, Any]:
    version, words, gauss = random.getstate()
    generator: Any = np.random.get_state(legacy=False)
    key = torch.from_numpy(generator["state"]["key"].astype(np.int64))
    generator = {**generator, "state": {**generator["state"], "key": key}}
    return {
        "python": [version, list(words), gauss],
        "numpy": generator,
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "actions": agent.action_space.np_random.bit_generator.state,
        "methods": agent.learner.generator.get_state(),
    }


def _load_random(agent: Agent, state: dict[str, Any]) -> None:
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    generator = state["numpy"]
    key = generator["state"]["key"].cpu().numpy().astype(np.uint32)
    np.random.set_state({**generator, "state": {**generator["state"], "key": key}})
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([generator.cpu() for generator in state["cuda"]])
    agent.action_space.np_random.bit_generator.state = state["actions"]
    agent.learner.generator.set_state(state["methods"].cpu())
