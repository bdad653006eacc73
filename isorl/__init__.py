"""isorl: plasticity in continual reinforcement learning.

`isorl.plasticity` is the science (torch alone), `isorl.envs` the streams of tasks, `isorl.agents` the learners,
`isorl.experiments` runs, grids and reports, `isorl.configs` what a run is.
"""
