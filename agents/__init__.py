"""The learners, PPO and DQN of stable-baselines3 and a classifier, that live through task switches; and `run/`."""

from agents.classifier import ContinualClassifier
from agents.dqn import ContinualDQN
from agents.ppo import ContinualPPO
from agents.sb3 import PlasticityCallback

Agent = ContinualPPO | ContinualDQN | ContinualClassifier
AGENTS: dict[str, type[Agent]] = {"ppo": ContinualPPO, "dqn": ContinualDQN, "classifier": ContinualClassifier}
"""Name on the command line -> class."""

__all__ = ["AGENTS", "Agent", "ContinualClassifier", "ContinualDQN", "ContinualPPO", "PlasticityCallback"]
