"""Grids small enough for tests: two visits of 64 agent steps."""

import pytest

TINY = [
    "agent=ppo",
    "sequence=catch_permuted-smoke",
    "sequence.tasks.0.agent_steps=64",
    "agent.n_envs=2",
    "agent.n_steps=16",
    "agent.batch_size=16",
    "agent.n_epochs=1",
    "evaluation.episodes=0",
    "diagnostics.every=0",
    "device=cpu",
    "network=relu",
    "optimizer=adam",
]


@pytest.fixture
def tiny():
    return list(TINY)
