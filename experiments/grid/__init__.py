"""A grid of runs: which cells there are, what each costs, how they are worked off once and only once."""
