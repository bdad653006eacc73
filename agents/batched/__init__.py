"""Runs with small networks of one structure, trained in one process as one: the largest lever there is for their speed.

Each run is an ordinary one. Where it is about to act or to update it asks (`Continual.request_batched`), another run
goes on, and once all have asked, one batched computation answers them all: the update of the agents' own class, with a
learner in the place of the agent whose tensors have one more dimension. What an agent computes with its own modules,
to act or for its loss, is traced once, over all runs, and computed in numpy from then on; every run checks it against
autograd before its first update.

runs.py lets runs take turns, learner.py and kinds.py make S agents look like one, buffers.py draws their samples,
parameters.py and optimizer.py hold weights and moments in tables, traced.py and aten.py make numpy of torch.
"""

from isorl.agents.batched.runs import BatchedRuns, Engine, batching_key, unbatchable_reason

__all__ = ["BatchedRuns", "Engine", "batching_key", "unbatchable_reason"]
