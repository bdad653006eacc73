"""A learner of plain torch: no agent, no environment."""

import copy
import itertools

import torch
from torch import nn

from isorl.plasticity.methods import Batch, Learner, Methods


def mlp(*widths, activation=nn.ReLU):
    """Body and head, as policies give them: Sequential(body, head)."""
    layers = []
    for i, o in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(i, o), activation()]
    return nn.Sequential(nn.Sequential(*layers), nn.Linear(widths[-2] if layers else widths[0], widths[-1]))


def cnn(activation=nn.ReLU, copies=1):
    """Two convolutions, a flatten, a hidden layer and a head, for (B, 2, 6, 6)."""
    return nn.Sequential(
        nn.Sequential(
            nn.Conv2d(2, 3, 3),
            activation(),
            nn.Conv2d(3 * copies, 4, 2),
            activation(),
            nn.Flatten(),
            nn.Linear(4 * copies * 9, 5),
            nn.ReLU(),
        ),
        nn.Linear(5, 2),
    )


class Trained:
    """Networks, Adam and methods, trained by `step` towards zero on a batch."""

    def __init__(self, *methods, optimizer=torch.optim.Adam, targets=None, **networks):
        self.networks = networks
        self.root = nn.ModuleDict({**networks, **{f"target_{k}": v for k, v in (targets or {}).items()}})
        template = copy.deepcopy(self.root)

        def fresh():
            twin = copy.deepcopy(template)
            for module in twin.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
            return twin

        parameters = {id(p): p for network in networks.values() for p in network.parameters()}
        self.optimizer = optimizer(list(parameters.values()), lr=1e-2)
        self.learner = Learner(networks, self.optimizer, self.root, fresh, targets or {})
        self.methods = Methods({f"{type(m).__name__}": m for m in methods})
        self.methods.start(self.learner)

    def step(self, x, train=True):
        batch = Batch(lambda: x)
        loss = sum(network(x).square().mean() for network in self.networks.values())
        loss = self.methods.add_loss(loss, batch)
        self.optimizer.zero_grad()
        loss.backward()
        if train:
            self.optimizer.step()
            self.methods.after_update(batch)
        return loss


def term(method, x=None, **networks):
    """The loss term of a method on networks as they are."""
    return Trained(method, **networks).methods.add_loss(torch.zeros(()), Batch(lambda: x))
