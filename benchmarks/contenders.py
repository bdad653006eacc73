"""What takes part in benchmarks/speed.py: stable-baselines3, this project, and the parts of a training step alone.

Each contender trains until it is stopped and calls `tick(steps)` at every vector step.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecTransposeImage
from torch import nn

from isorl.agents import ContinualDQN, ContinualPPO
from isorl.agents.batched import BatchedRuns
from isorl.agents.policies import CnnBody, uses_cnn
from isorl.configs.schema import SequenceConfig, SwitchConfig, TaskConfig
from isorl.envs import Sequence, SwitchingVecEnv
from isorl.envs.sequence import registered
from isorl.plasticity import AdamO, NetworkSpec

Tick = Callable[[int], None]
FOREVER = 10**9

PPO_ATARI = dict(n_steps=128, batch_size=256, n_epochs=4, learning_rate=2.5e-4, clip_range=0.1, ent_coef=0.01)
PPO_SMALL = dict(n_steps=128, batch_size=256, n_epochs=4, learning_rate=2.5e-4)
PPO_MUJOCO = dict(n_steps=2048, batch_size=64, n_epochs=10, learning_rate=3e-4)
DQN_ATARI = dict(buffer_size=10_000, learning_starts=1_000, batch_size=32, train_freq=4, target_update_interval=1_000,
                 learning_rate=1e-4, exploration_fraction=1e-6)  # fmt: skip
PPO_ROOMS = dict(n_steps=16, batch_size=32, n_epochs=4, learning_rate=2.5e-4, ent_coef=0.01)
DQN_RAIN = dict(buffer_size=4_000, learning_starts=200, batch_size=32, train_freq=1, target_update_interval=800,
                learning_rate=1e-3, gamma=0.95, exploration_fraction=1e-6)  # fmt: skip
PPO_MINATAR = dict(n_steps=128, batch_size=256, n_epochs=4, learning_rate=5e-4, ent_coef=0.01)
DQN_MINATAR = dict(buffer_size=20_000, learning_starts=1_000, batch_size=32, train_freq=1, target_update_interval=1_000,
                   learning_rate=2.5e-4, exploration_fraction=1e-6)  # fmt: skip
ARGUMENTS: dict[str, dict[str, Any]] = {
    "ppo_nine_rooms": PPO_ROOMS,
    "dqn_rain": DQN_RAIN,
    "ppo_atari": PPO_ATARI,
    "ppo_cartpole": PPO_SMALL,
    "ppo_mujoco": PPO_MUJOCO,
    "dqn_atari": DQN_ATARI,
    "ppo_minatar": PPO_MINATAR,
    "ppo_minatar_mlp": PPO_MINATAR,
    "dqn_minatar": DQN_MINATAR,
    "dqn_minatar_mlp": DQN_MINATAR,
    "ppo_walker": PPO_MUJOCO,
}
COPIES = {
    "ppo_nine_rooms": 8,
    "dqn_rain": 8,
    "ppo_atari": 8,
    "ppo_cartpole": 8,
    "ppo_mujoco": 1,
    "dqn_atari": 1,
    "ppo_minatar": 8,
    "ppo_minatar_mlp": 8,
    "dqn_minatar": 8,
    "dqn_minatar_mlp": 8,
    "ppo_walker": 1,
}
PARTS = ("environment alone", "network alone")
TASKS = {
    # the game as SB3's wrappers play it: no sticky actions, few actions
    "atari": TaskConfig("ALE/Breakout-v5", agent_steps=FOREVER,
                        kwargs={"full_action_space": False, "repeat_action_probability": 0.0}),
    "cartpole": TaskConfig("CartPole-v1", agent_steps=FOREVER),
    "mujoco": TaskConfig("HalfCheetah-v5", agent_steps=FOREVER),
    "nine_rooms": TaskConfig("isorl/NineRooms-v0", agent_steps=FOREVER),
    "rain": TaskConfig("isorl/Rain-v0", agent_steps=FOREVER),
    "minatar": TaskConfig("MinAtar/SpaceInvaders-v0", agent_steps=FOREVER),  # the slowest of the games
    "walker": TaskConfig("dm_control/walker-walk-v0", agent_steps=FOREVER, wrappers=["FlattenObservation"]),
}  # fmt: skip
TOGETHER, SEEDS_TOGETHER = "10 seeds as one", 10


def task_of(case: str) -> str:
    """Returns the key in TASKS of ppo_KEY, dqn_KEY, or ppo_KEY_mlp."""
    return case.split("_", 1)[1].removesuffix("_mlp")


def run(case: str, name: str, device: str, tick: Tick) -> None:
    """Trains the contender `name` of `case` for ever."""
    if name == "environment alone":
        return play_alone(our_env(case, COPIES[case]), tick)
    if name == "network alone":
        return compute_alone(case, device, tick)
    if name == "SB3":
        return learn(sb3(case, name, device), tick)
    train_together(case, name, device, tick, SEEDS_TOGETHER if name.endswith(TOGETHER) else 1)


def learn(agent: PPO | DQN, tick: Tick) -> None:
    """Trains without logging."""
    agent.learn(FOREVER, callback=Ticking(tick), log_interval=None)


def train_together(case: str, name: str, device: str, tick: Tick, seeds: int) -> None:
    """As train.py does: one seed, or several in one process, where every step of any of them counts."""
    ends = BatchedRuns().run(
        [lambda seed=seed: learn(ours(case, name, device, seed), tick) for seed in range(seeds)]
    )
    raise ends[0]


class Ticking(BaseCallback):
    """Passes every vector step on to the metronome."""

    def __init__(self, tick: Tick) -> None:
        super().__init__()
        self._tick = tick

    def _on_step(self) -> bool:
        self._tick(self.training_env.num_envs)
        return True


def sb3(case: str, name: str, device: str) -> PPO | DQN:
    """stable-baselines3 as its documentation sets it up."""
    algorithm: Any = DQN if case.startswith("dqn") else PPO
    policy = "CnnPolicy" if case.endswith("_atari") else "MlpPolicy"
    network: dict[str, Any] = {}
    if case.endswith("_minatar"):  # it has no such network of its own
        network = {
            "features_extractor_class": CnnBody, "features_extractor_kwargs": {"network": NetworkSpec()},
            "net_arch": [],
        }  # fmt: skip
    env = sb3_env(case, COPIES[case])
    return algorithm(policy, env, policy_kwargs=network, seed=0, device=device, **ARGUMENTS[case])


def sb3_env(case: str, n_envs: int) -> VecEnv:
    """DummyVecEnv with SB3's own wrappers."""
    if case.endswith("_atari"):
        import ale_py  # noqa: F401  registers the games

        env = make_atari_env("BreakoutNoFrameskip-v4", n_envs, seed=0)
        return VecTransposeImage(VecFrameStack(env, 4))
    task = TASKS[task_of(case)]
    if task.env.startswith("MinAtar/"):
        from minatar.gym import BaseEnv

        return make_vec_env(lambda: channels_first(BaseEnv("space_invaders")), n_envs, seed=0)
    wrapper = gymnasium.wrappers.FlattenObservation if task.wrappers else None
    return make_vec_env(registered(task.env), n_envs, seed=0, wrapper_class=wrapper)


def channels_first(env: gymnasium.Env) -> gymnasium.Env:
    """Turns MinAtar's bits into the images that stable-baselines3 takes."""
    height, width, channels = env.observation_space.shape  # type: ignore[misc]
    space = gymnasium.spaces.Box(0, 1, (channels, height, width), np.uint8)
    return gymnasium.wrappers.TransformObservation(
        env, lambda bits: np.moveaxis(bits, -1, 0).astype(np.uint8), space
    )


def ours(case: str, name: str, device: str, seed: int = 0) -> ContinualPPO | ContinualDQN:
    """This project's agent in the variant `name`."""
    agent: Any = ContinualDQN if case.startswith("dqn") else ContinualPPO
    network = NetworkSpec(
        activation="tanh" if case.startswith("ppo") and not case.endswith(("atari", "_minatar")) else "relu",
        body="mlp" if case.endswith(("_rain", "_mlp")) else "auto",
    )
    policy: dict[str, Any] = {"network": network}
    if name == "fast, AdamO":
        policy |= {"optimizer_class": AdamO, "optimizer_kwargs": {"eps": 1e-5, "iso_target": 2.0}}
    arguments = dict(ARGUMENTS[case])
    n_envs = COPIES[case]
    if name.endswith("8 copies"):  # eight steps per vector step, eight updates after four of them
        n_envs, arguments["gradient_steps"] = 8, 8
    arguments |= {} if name == "exact" else {"exact": False}
    arguments |= {"precision": "bfloat16"} if "bf16" in name else {}
    arguments |= {"precision": "tfloat32"} if "TF32" in name else {}
    arguments |= {"compile": True} if "compiled" in name else {}
    return agent("NetworkPolicy", our_env(case, n_envs, seed), seed=seed, device=device, policy_kwargs=policy,
                 switch=SwitchConfig(exploration="run"), **arguments)  # fmt: skip


def our_env(case: str, n_envs: int, seed: int = 0) -> SwitchingVecEnv:
    """A sequence of one endless task."""
    sequence = Sequence.from_config(SequenceConfig(case, [TASKS[task_of(case)]]), seed, n_envs)
    return SwitchingVecEnv(sequence, n_envs, seed)


def play_alone(env: VecEnv, tick: Tick) -> None:
    """Random actions and nothing else."""
    env.reset()
    rng = np.random.default_rng(0)
    for actions in cycle(
        [np.stack([env.action_space.sample() for _ in range(env.num_envs)]) for _ in range(100)]
    ):
        env.step(actions[rng.permutation(len(actions))])
        tick(env.num_envs)


def compute_alone(case: str, device: str, tick: Tick) -> None:
    """Every forward and backward pass and optimizer step of a training, on observations that stay the same."""
    agent = ours(case, "exact", device)
    policy: Any = agent.policy
    space = agent.observation_space
    channels_last = {"memory_format": torch.channels_last} if uses_cnn(space, policy.network) else {}
    networks = nn.ModuleDict(policy.networks()).to(**channels_last)
    optimizer = torch.optim.Adam(networks.parameters(), fused=True)
    batch, n_envs = ARGUMENTS[case]["batch_size"], COPIES[case]

    def observations(count: int) -> torch.Tensor:
        return torch.rand(count, *space.shape, device=device).contiguous(**channels_last)

    def answer(x: torch.Tensor) -> torch.Tensor:
        return torch.cat(list(outputs(x)), dim=1)

    def outputs(x: torch.Tensor) -> Any:
        first, *others = networks.values()
        if (
            others and first[0] is others[0][0] and uses_cnn(space, policy.network)
        ):  # actor and critic on one body
            features = first[0](x)
            return [network[1](features) for network in networks.values()]
        return [network(x) for network in networks.values()]

    few, many = observations(n_envs), observations(batch)

    def updates(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            answer(many).square().mean().backward()
            optimizer.step()

    steps = 0
    while True:
        with torch.inference_mode():
            answer(few)
        steps += 1
        if case.startswith("dqn"):
            if steps % ARGUMENTS[case]["train_freq"] == 0:
                with torch.no_grad():
                    answer(many)  # the target network
                updates(1)
        elif steps % ARGUMENTS[case]["n_steps"] == 0:
            updates(ARGUMENTS[case]["n_epochs"] * ARGUMENTS[case]["n_steps"] * n_envs // batch)
        tick(n_envs)
