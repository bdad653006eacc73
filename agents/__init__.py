"""The learners, PPO and DQN of stable-baselines3 and a classifier, that live through task switches; and `run/`."""

from isorl.agents.classifier import ContinualClassifier
from isorl.agents.dqn import ContinualDQN
from isorl.agents.ppo import ContinualPPO
from isorl.agents.sb3 import PlasticityCallback

Agent = ContinualPPO | ContinualDQN | ContinualClassifier

__all__ = ["Agent", "ContinualClassifier", "ContinualDQN", "ContinualPPO", "PlasticityCallback"]
