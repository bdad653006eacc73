"""Normalised scores: 0 for a random agent, 1 for the reference, the same scale for every method.

`scores.csv` holds both per environment. Its sources:
  atari57    random agent and professional human tester, after 1 to 30 no-op frames: Wang et al. 2016 (Dueling Network
             Architectures), as tabulated in DeepMind's dqn_zoo; the usual human-normalised score
  threshold  random: mean of 200 episodes measured by `python -m isorl.envs.scores`; reference: the return at which
             Gymnasium calls the environment solved (its `reward_threshold`)
  best       random: as above (DeepMind control: of 20 episodes, dog 10; Meta-World: of 50); reference: the highest
             possible return
  random     random: as above; no reference has been published in numbers, so nothing is normalised

A task whose shifts or arguments change the game is measured on the same scale: what was lost should be seen.
"""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np

TABLE = Path(__file__).with_name("scores.csv")


@dataclass(frozen=True)
class Score:
    """Holds the mean returns of a random agent and of the reference, if there is one."""

    random: float
    reference: float | None
    source: str

    def normalised(self, raw_return: float) -> float | None:
        """Returns 0 at the random agent's return, 1 at the reference's; None without a reference."""
        if self.reference is None:
            return None
        return (raw_return - self.random) / (self.reference - self.random)


@functools.cache
def scores() -> dict[str, Score]:
    """Returns the table, by environment id."""
    with TABLE.open(newline="") as file:
        rows = csv.DictReader(file)
        return {
            row["env"]: Score(
                float(row["random"]), float(row["reference"]) if row["reference"] else None, row["source"]
            )
            for row in rows
        }


def normalised(env_id: str, raw_return: float) -> float | None:
    """Returns the normalised score; None for an environment without a reference in the table."""
    score = scores().get(env_id)
    return None if score is None else score.normalised(raw_return)


def random_return(env_id: str, episodes: int = 200) -> tuple[float, float]:
    """Returns the mean return of uniformly random actions and its standard error."""
    env = gymnasium.make(env_id)
    env.action_space.seed(0)
    returns = []
    for episode in range(episodes):
        env.reset(seed=episode)
        total, over = 0.0, False
        while not over:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    env.close()
    return float(np.mean(returns)), float(np.std(returns) / episodes**0.5)


def main() -> None:
    """Prints the measured random returns beside those in the table."""
    from isorl.envs.sequence import registered

    for env_id, score in scores().items():
        if score.source != "atari57":
            registered(env_id)
            mean, error = random_return(env_id)
            print(f"{env_id}: {mean:.2f} ± {error:.2f} (table: {score.random})")


if __name__ == "__main__":
    main()
