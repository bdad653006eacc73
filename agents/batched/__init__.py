"""Runs with small networks of one structure, trained in one process as one: the largest lever there is for them.

A run alone is a pack of one, so that how many there are changes no bit of what any of them computes.

pack.py lets runs take turns until all want the same; stack.py holds their networks as one; ppo.py and dqn.py say what
is computed for all at once.
"""

from isorl.agents.batched import dqn, ppo  # noqa: F401  they register what is computed together
from isorl.agents.batched.pack import Pack, sharing, why_alone

__all__ = ["Pack", "sharing", "why_alone"]
