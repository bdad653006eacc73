"""Scripts of other projects, run from a checkout as one more contender of benchmarks/speed.py.

Nothing in them is changed but that LeanRL's rollouts record no gradients, which with the present tensordict they would.
They were written for older gymnasium, for envpool's OpenAI gym and for wandb: `lend_old_names` gives them what is
gone, and every environment step they take goes through the benchmark's metronome.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import ale_py  # noqa: F401  registers the games
import gymnasium
from gymnasium.vector import AutoresetMode, SyncVectorEnv

Tick = Callable[[int], None]
FOREVER = "1000000000"

SCRIPTS: dict[tuple[str, str], tuple[str, list[str]]] = {
    ("ppo_atari", "CleanRL"): ("cleanrl/ppo_atari.py", ["--num-envs", "8"]),
    ("ppo_atari", "CleanRL envpool"): ("cleanrl/ppo_atari_envpool.py", ["--num-envs", "8"]),
    ("ppo_atari", "LeanRL"): ("leanrl/ppo_atari_envpool_torchcompile.py", []),
    ("ppo_atari", "LeanRL compiled"): ("leanrl/ppo_atari_envpool_torchcompile.py", ["--compile"]),
    ("ppo_cartpole", "CleanRL"): ("cleanrl/ppo.py", ["--num-envs", "8"]),
    ("ppo_mujoco", "CleanRL"): ("cleanrl/ppo_continuous_action.py", ["--env-id", "HalfCheetah-v5"]),
    ("dqn_atari", "CleanRL"): (
        "cleanrl/dqn_atari.py",
        ["--buffer-size", "10000", "--learning-starts", "1000"],
    ),
}
"""(case, name) -> script inside its project's checkout, and arguments beside its defaults."""


def run_script(checkout: Path, script: str, arguments: list[str], gpu: bool, tick: Tick) -> None:
    """Trains for ever, as far as the metronome lets it."""
    lend_old_names(tick)
    device = [] if gpu else ["--no-cuda"]
    sys.argv = [script, "--total-timesteps", FOREVER, *device, *arguments]
    sys.path.insert(0, str(checkout))
    source = (checkout / script).read_text()
    for function in ("rollout", "gae"):
        source = source.replace(f"def {function}(", f"@torch.no_grad()\ndef {function}(")
    main = sys.modules["__main__"] = ModuleType("__main__")  # torch.compile looks functions up there
    main.__file__ = script
    exec(compile(source, script, "exec"), main.__dict__)


def lend_old_names(tick: Tick) -> None:
    """Puts the removed names of gymnasium in place, and `tick` into every vector step."""
    gymnasium.Wrapper.__getattr__ = _ask_inside  # type: ignore[attr-defined]
    wrappers: Any = gymnasium.wrappers
    wrappers.GrayScaleObservation = wrappers.GrayscaleObservation
    wrappers.FrameStack = lambda env, n: wrappers.FrameStackObservation(env, n)
    plain_transform = wrappers.TransformObservation
    wrappers.TransformObservation = lambda env, f, space=None: plain_transform(
        env, f, space or env.observation_space
    )
    plain_step, plain_init = SyncVectorEnv.step, SyncVectorEnv.__init__

    def init(self: Any, env_fns: Any, **kwargs: Any) -> None:
        plain_init(self, env_fns, **{"autoreset_mode": AutoresetMode.SAME_STEP, **kwargs})

    def step(self: Any, actions: Any) -> Any:
        result = plain_step(self, actions)
        tick(self.num_envs)
        infos = result[4]
        if "final_obs" in infos:
            infos["final_observation"] = infos["final_obs"]
        infos.pop("final_info", None)  # the scripts would only print returns
        return result

    SyncVectorEnv.__init__, SyncVectorEnv.step = init, step  # type: ignore[method-assign]
    sys.modules.setdefault("wandb", _silent("wandb"))
    sys.modules.setdefault("gym", gymnasium)
    try:
        from envpool import make
    except Exception:  # not installed, or a wheel without its games
        make = native_pool
    pools: Any = ModuleType("envpool")
    pools.make = lambda *args, **kwargs: TickingPool(make(*args, num_threads=1, **kwargs), tick)
    sys.modules["envpool"] = pools


def native_pool(env_id: str, num_envs: int, seed: int = 1, **_: Any) -> Any:
    """Stands in for envpool where it does not install: ale_py's own emulators in C++, set up alike."""
    return gymnasium.make_vec(
        f"ALE/{env_id}",
        num_envs=num_envs,
        vectorization_mode="vector_entry_point",
        autoreset_mode=AutoresetMode.SAME_STEP,
        life_loss_info=True,
        reward_clipping=True,
        num_threads=1,
    )


class TickingPool(gymnasium.Env):
    """A pool of environments with the interface that the scripts expect; a step counts for all copies."""

    def __init__(self, pool: Any, tick: Tick) -> None:
        self.pool, self._tick = pool, tick
        self.action_space = getattr(pool, "single_action_space", pool.action_space)
        self.observation_space = getattr(pool, "single_observation_space", pool.observation_space)

    def reset(self, **kwargs: Any) -> Any:
        """First observations (B, ...)."""
        observations = self.pool.reset()
        return observations[0] if isinstance(observations, tuple) else observations

    def step(self, actions: Any) -> Any:
        """Observations, rewards, dones and infos of all copies."""
        result = self.pool.step(actions)
        self._tick(len(actions))
        if len(result) == 4:
            return result
        observations, rewards, terminated, truncated, info = result
        done = terminated | truncated
        info = {"reward": rewards, "terminated": done, "lives": info.get("lives", 0 * done), **info}
        return observations, rewards, done, info


def _silent(name: str) -> ModuleType:
    module: Any = ModuleType(name)
    module.init = module.log = lambda *args, **kwargs: None
    return module


def _ask_inside(wrapper: Any, name: str) -> Any:
    """An attribute of the wrapped environment, which wrappers once showed as their own."""
    if name == "env":
        raise AttributeError(name)
    return getattr(wrapper.env, name)
