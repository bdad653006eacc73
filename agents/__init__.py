"""The learners: PPO and DQN of stable-baselines3 that live through task switches, and what runs them (`run/`)."""

from agents.dqn import ContinualDQN
from agents.ppo import ContinualPPO
from agents.sb3 import PlasticityCallback

AGENTS = {"ppo": ContinualPPO, "dqn": ContinualDQN}
"""Name on the command line -> class."""

__all__ = ["AGENTS", "ContinualDQN", "ContinualPPO", "PlasticityCallback"]
