"""Experiments: `run` is the life of one run, `grid` works off many of them, `report` reads what they left."""
