"""An actor-critic in CleanRL's style on one of isorl's streams: `python examples/cleanrl_loop.py minatar_switch`."""

import sys

import gymnasium
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

import isorl.envs  # noqa: F401  registers isorl/Stream-v0


def main(
    sequence: str = "catch_permuted", num_envs: int = 8, num_steps: int = 8, gamma: float = 0.95
) -> dict:
    """Learns the whole sequence; returns the mean raw return of each visit's episodes."""
    torch.manual_seed(0)
    vectorised = {"num_envs": num_envs, "vectorization_mode": "vector_entry_point"}
    envs = gymnasium.make_vec("isorl/Stream-v0", sequence=sequence, seed=0, **vectorised)
    inputs, actions = int(np.prod(envs.single_observation_space.shape)), int(envs.single_action_space.n)
    network = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, actions + 1))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    observations, info = envs.reset(seed=0)
    returns: dict[int, list[float]] = {}
    while not info["finished"].all():
        outputs, chosen, steps = [], [], []
        for _ in range(num_steps):
            outputs.append(network(torch.as_tensor(observations, dtype=torch.float32)))
            chosen.append(Categorical(logits=outputs[-1][:, :-1]).sample())
            visit = int(info["visit"][0])
            observations, rewards, terminated, truncated, info = envs.step(chosen[-1].numpy())
            last = observations.copy()  # with those that an autoreset or a switch has replaced
            for copy in np.flatnonzero(terminated | truncated):
                last[copy] = info["final_obs"][copy]
            steps.append((rewards, terminated, terminated | truncated, last))
            if "episode" in info:
                returns.setdefault(visit, []).extend(info["episode"]["r"][info["_episode"]])
        targets: list[torch.Tensor] = []
        for rewards, terminated, done, last in reversed(steps):  # nothing reaches across an end or a switch
            with torch.no_grad():
                value = network(torch.as_tensor(last, dtype=torch.float32))[:, -1]
            following = torch.where(torch.as_tensor(done), value, targets[0]) if targets else value
            targets.insert(0, torch.as_tensor(rewards) + gamma * following * torch.as_tensor(~terminated))
        output, policy = torch.cat(outputs), Categorical(logits=torch.cat(outputs)[:, :-1])
        advantage = torch.cat(targets) - output[:, -1]
        loss = advantage.square().mean() - (policy.log_prob(torch.cat(chosen)) * advantage.detach()).mean()
        optimizer.zero_grad()
        (loss - 0.01 * policy.entropy().mean()).backward()
        optimizer.step()
    envs.close()
    return {visit: float(np.mean(found)) for visit, found in returns.items()}


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
