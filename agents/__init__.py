"""The learners that live through task switches: PPO and DQN of stable-baselines3, and a classifier."""

from isorl.agents.classifier import ContinualClassifier
from isorl.agents.dqn import ContinualDQN
from isorl.agents.ppo import ContinualPPO
from isorl.agents.sb3 import PlasticityCallback

Agent = ContinualPPO | ContinualDQN | ContinualClassifier

__all__ = ["Agent", "ContinualClassifier", "ContinualDQN", "ContinualPPO", "PlasticityCallback"]
