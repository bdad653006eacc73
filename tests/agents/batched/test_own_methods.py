"""Methods of the user's own, which may draw from the process's generators, in runs that share a process."""

import numpy as np
import pytest
import torch

from isorl.agents import ContinualDQN, ContinualPPO
from isorl.plasticity.methods import Method
from tests.agents.batched.test_runs import SEEDS, together, weights


class Noise(Method):
    """Adds noise to a weight after an update, at a switch, and to the loss, as one would write it first."""

    def start(self, learner):
        self.weight = next(p for _, p in learner.parameters() if p.ndim > 1)

    def loss(self, batch):
        return (torch.randn_like(self.weight) * self.weight).sum() * 1e-3

    def after_update(self, batch):
        with torch.no_grad():
            self.weight.add_(torch.randn_like(self.weight), alpha=1e-3)

    def on_switch(self):
        with torch.no_grad():
            self.weight.mul_(1 + 1e-3 * float(np.random.rand()))


@pytest.mark.parametrize("agent", [ContinualPPO, ContinualDQN])
def test_they_draw_what_they_draw_alone(agent):
    many = together(agent=agent, methods=(Noise,), switches=(64, 64))
    single = [together(seeds=(seed,), agent=agent, methods=(Noise,), switches=(64, 64))[0] for seed in SEEDS]
    for ours, theirs in zip(many, single, strict=True):
        assert torch.equal(weights(ours), weights(theirs))
    assert not torch.equal(weights(many[0]), weights(many[1]))
