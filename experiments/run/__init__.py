"""Runs a learner: the life of one run, what it measures, and what it leaves in its folder."""
