"""Runs with small networks of one structure, trained in one process as one: the largest lever there is for their speed.

Each run is an ordinary one. Where it is about to act or to update it asks (`Continual.request_batched`), another run
goes on, and once all have asked, one batched computation answers them all: the update of the agents' own class, with a
learner in the place of the agent whose tensors have one more dimension. What is written anew here is the forward and
backward pass of a few layers (kernels.py), which every run checks against autograd before its first update.

runs.py lets runs take turns, learner.py makes S agents look like one, parameters.py holds their weights in one table.
"""

from isorl.agents.batched.runs import BatchedRuns, Engine, batching_key, unbatchable_reason

__all__ = ["BatchedRuns", "Engine", "batching_key", "unbatchable_reason"]
