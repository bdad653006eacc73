"""Takes out of an agent, as tensors and plain values, what a resumed run needs; checks it and puts it back.

A resumed run goes on in the middle of the episodes that were being played.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecNormalize

from isorl.agents import Agent
from isorl.configs import UserError
from isorl.envs.normalize import TaskNormalize
from isorl.experiments.terminal import explain

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

OBSERVED = ("_last_obs", "_last_episode_starts", "_last_original_obs")
"""Attributes with what the learner saw last: given these, SB3 goes on instead of resetting the environment."""
LOGGED = ("ep_info_buffer", "ep_success_buffer", "_last_loss")
"""Attributes of which the next row of training curves is made."""


PARTS = (
    "policy",
    "optimizer",
    "counters",
    "gradients",
    "methods",
    "environment",
    "seen",
    "shown",
    "normalizer",
    "random",
    "run",
)


def gather(agent: Agent, run: dict[str, Any]) -> dict[str, Any]:
    """Returns the state of `agent`, of its environment and of `run`, without the replay buffer (ReplayLog writes it).

    Its tensors are those of the agent: write them before the agent goes on.
    """
    with agent.rng.installed():
        random_state = _random_state(agent)
    return {
        "policy": agent.policy.state_dict(),
        "optimizer": agent.policy.optimizer.state_dict(),
        "counters": {name: getattr(agent, name) for name in COUNTERS if hasattr(agent, name)},
        "gradients": {name: p.grad for name, p in agent.policy.named_parameters() if p.grad is not None},
        "methods": agent.methods.state_dict(),
        "environment": _tensors(agent.env.unwrapped.state_dict()),  # type: ignore[union-attr]
        "seen": _tensors({name: getattr(agent, name) for name in OBSERVED}),
        "shown": {name: _plain(getattr(agent, name, None)) for name in LOGGED},
        "normalizer": _normalizer_state(agent),
        "random": random_state,
        "run": run,
    }


def restore(agent: Agent, state: dict[str, Any]) -> None:
    """Puts the saved state into `agent` and its environment.

    Raises:
        UserError: a state of another network, optimizer, sequence, ...; `agent` is then of no more use.
    """
    try:
        _check(agent, state)
        _restore(agent, state)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"It does not fit this run: {explain(error)}") from error


def _check(agent: Agent, state: dict[str, Any]) -> None:
    """Names, types, shapes and dtypes against those of the agent that the configuration makes."""
    if state.keys() ^ set(PARTS):
        names = sorted(map(str, state.keys() ^ set(PARTS)))
        raise UserError(f"Its parts are not those of this version: '{names[0]}' is in one alone.")
    _check_like(state["policy"], agent.policy.state_dict(), "weights of the network")
    if not all(isinstance(state[name], dict) for name in ("policy", "optimizer", "seen", "shown")):
        raise UserError("A part of it is no mapping.")
    shape = (agent.n_envs, *agent.observation_space.shape)  # type: ignore[misc]
    if tuple(state["seen"]["_last_obs"].shape) != shape:
        raise UserError(f"It saw observations of another shape than {shape}.")
    groups = agent.policy.optimizer.state_dict()["param_groups"]
    if [sorted(group) for group in state["optimizer"]["param_groups"]] != [sorted(group) for group in groups]:
        raise UserError("Its optimizer has other options.")
    for name, value in state["counters"].items():
        if name not in COUNTERS or not isinstance(value, (int, float, type(None))):
            raise UserError(f"'{name}' is no counter of this agent, or no number.")
    number = state["environment"]["visit"][0]
    if not 0 <= number < len(agent.env.unwrapped.sequence.visits):  # type: ignore[union-attr]
        raise UserError(f"It stands in visit {number}, which this sequence does not have.")


def _check_like(saved: Any, expected: dict[str, Any], what: str) -> None:
    names = [str(name) for name in saved.keys() ^ expected.keys()]
    if names:
        raise UserError(f"The {what} differ: '{names[0]}' is in one alone.")
    for name, value in expected.items():
        ours, theirs = _form(value), _form(saved[name])
        if ours != theirs and value is not None:
            raise UserError(f"The {what} differ: '{name}' is {theirs}, not {ours}.")


def _form(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__


def _restore(agent: Agent, state: dict[str, Any]) -> None:
    agent.policy.load_state_dict(state["policy"])
    agent.policy.optimizer.load_state_dict(state["optimizer"])
    for name, value in state["counters"].items():
        setattr(agent, name, value)
    for name, parameter in agent.policy.named_parameters():  # of the last update: diagnostics measure them
        parameter.grad = state["gradients"].get(name)
    agent.methods.load_state_dict(state["methods"])
    agent.env.unwrapped.load_state_dict(_arrays(state["environment"]))  # type: ignore[union-attr]
    for name, value in state["seen"].items():
        setattr(agent, name, _arrays(value))
    episodes, successes, loss = (
        state["shown"].get(name) for name in LOGGED
    )  # earlier versions kept no successes
    if episodes is not None:
        agent.ep_info_buffer = deque(episodes, maxlen=agent._stats_window_size)
        agent.ep_success_buffer = deque(successes or (), maxlen=agent._stats_window_size)
    if hasattr(agent, "_last_loss"):
        agent._last_loss = loss
    _load_normalizer(agent, state["normalizer"])
    _load_random(agent, state["random"])


def _plain(value: Any) -> Any:
    """A deque becomes a list."""
    return list(value) if isinstance(value, deque) else value


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
    observed = {"observations": normalizer.obs_rms} if normalizer.norm_obs else {}
    return {**observed, "returns": normalizer.ret_rms}


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
