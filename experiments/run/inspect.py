"""A plasticity report on a run of ours, or on somebody's stable-baselines3 agent or state dict.

    isorl inspect RUN_DIR [--out DIR]
    isorl inspect model.zip --env CartPole-v1 [--out DIR]

A run folder says everything itself: its newest checkpoint is looked at on its own probe batch of the task that it was
in. Of a zip the JSON part and the weights are read, and nothing in it can run code: stable-baselines3 builds the
policy that the file describes (agents of stable-baselines3 and ours), and what it does not describe is refused by
name. An agent that learned with VecNormalize needs the statistics, --vec-normalize.
An activation of somebody's own comes with its module, imports=[MODULE], or is asked for, --activation; without
either, the figures of the weights alone are given. So are those of a state dict, which is taken for a chain of linear
layers if its names are those of one.
`--trust ALGORITHM` loads the zip with stable-baselines3 instead, which unpickles it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import stable_baselines3
import torch
from gymnasium import spaces
from matplotlib.figure import Figure
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn

from isorl.agents.policies import preprocess
from isorl.agents.sb3 import networks_of
from isorl.configs import SequenceConfig, TaskConfig, UserError, nearest
from isorl.configs.errors import RunStopped
from isorl.envs import Sequence as TaskSequence
from isorl.envs.normalize import statistics_of
from isorl.envs.spaces import CommonSpaces
from isorl.envs.switching import common_spaces
from isorl.envs.task_env import spaces_of
from isorl.experiments import plugins
from isorl.experiments.run.agent_file import (
    ACTIVATION_NAMES,
    chain_of_linears,
    check_observations,
    read_agent,
    read_normalizer,
    read_state_dict,
)
from isorl.experiments.run.folder import RunFolder, write_json
from isorl.experiments.run.play import restored
from isorl.experiments.run.probes import collect_probe, load_or_collect
from isorl.experiments.terminal import closed_pipe_is_no_error, explain, say
from isorl.plasticity.diagnostics import DEFAULT_METRICS, Report, report

ALGORITHMS = ("PPO", "A2C", "DQN", "SAC", "TD3", "DDPG")
WEIGHT_METRICS = ("gram_deviation", "gram_anisotropy", "weight_norm")
"""Figures that do not depend on the activation."""


def probe_batch(env_id: str, size: int, seed: int) -> tuple[CommonSpaces, np.ndarray]:
    """Returns the spaces and (size, ...) observations of a random agent; ALE games as 4x84x84.

    Raises:
        UserError: no such environment, or one that no agent of stable-baselines3 reads.
    """
    if size < 1:
        raise UserError(f"--observations counts observations and must be at least 1, got {size}.")
    task = TaskConfig(env=env_id, agent_steps=1)
    space, _ = spaces_of(TaskSequence.from_config(_alone(task), seed).tasks[0])
    if not isinstance(space, spaces.Box) or len(space.shape) not in (1, 3):
        task = replace(
            task, wrappers=["FlattenObservation"]
        )  # as stable-baselines3 does before the first layer
    sequence = TaskSequence.from_config(_alone(task), seed)
    common = common_spaces(sequence)
    return common, collect_probe(sequence.tasks[0], common, size, seed)


def _alone(task: TaskConfig) -> SequenceConfig:
    return SequenceConfig(name="inspect", tasks=[task])


def inspect(
    path: Path,
    env_id: str,
    activation: str | None = None,
    trust: str | None = None,
    size: int = 64,
    normalizer: Path | None = None,
) -> dict[str, Report]:
    """Returns a report per network of the agent in `path` on observations of `env_id`.

    Args:
        path: an SB3 zip, or a state dict.
        env_id: a Gymnasium id.
        activation: a name in ACTIVATION_NAMES, where the file does not say it.
        trust: the algorithm with which stable-baselines3 loads the zip; None: nothing is unpickled.
        size: observations in the probe batch.
        normalizer: a file of VecNormalize.save.

    Raises:
        UserError: a file, an environment, an activation or statistics that do not fit.
    """
    model = None if trust is None else _trusted(path, trust)
    agent = None if trust is not None else read_agent(path)
    weights = None if model or agent else read_state_dict(path)
    is_normalized = agent.is_normalized if agent else getattr(model, "_last_original_obs", None) is not None
    if is_normalized and normalizer is None:
        raise UserError(
            f"The agent in '{path}' learned on observations normalised by VecNormalize, whose statistics are in a "
            "file of their own: --vec-normalize FILE."
        )
    common, observations = probe_batch(env_id, size, seed=0)
    space, batch = _normalized(common.observation, observations, normalizer)
    networks: Mapping[str, nn.Module]
    note, scaled = "", True
    if weights is not None:
        networks = {"network": chain_of_linears(weights, activation)}
        layers = ", ".join(str(layer) for layer in list(networks["network"].children())[1:])
        note = f"taken for {layers}: a state dict does not say what its network is."
    elif agent:
        policy = agent.build(space, common.action, activation)
        networks, scaled = _networks(policy), policy.normalize_images
        if agent.unknown_activation:
            note = f"the activation is {agent.unknown_activation} in the file."
    else:
        assert model is not None
        known = {
            ":type:": "box",
            "_shape": list(model.observation_space.shape),
            "dtype": model.observation_space.dtype,
        }
        check_observations(known, space)
        networks, scaled = _networks(model.policy), model.policy.normalize_images
    metrics: Sequence[str] = DEFAULT_METRICS
    if activation is None and note:
        metrics, note = (
            WEIGHT_METRICS,
            f"{note} Figures that need the activation are absent; --activation or imports=[MODULE] adds them.",
        )
    inputs: Any = preprocess_obs(torch.as_tensor(batch), space, normalize_images=scaled)
    return _reports(networks, inputs, metrics, [note] if note else [])


def _trusted(path: Path, algorithm: str) -> Any:
    if algorithm not in ALGORITHMS:
        raise UserError(f"There is no algorithm '{algorithm}'. {nearest(algorithm, ALGORITHMS)}")
    if not path.is_file():
        raise UserError(f"There is no file '{path}'.")
    try:
        return getattr(stable_baselines3, algorithm).load(path, device="cpu")
    except Exception as error:  # whatever another algorithm's parts, or code from the file, provoke
        raise UserError(f"{algorithm} does not load '{path}': {explain(error)}") from error


def _normalized(
    space: spaces.Box, observations: np.ndarray, normalizer: Path | None
) -> tuple[spaces.Box, np.ndarray]:
    """Returns the space and the observations behind the VecNormalize that was saved in `normalizer`."""
    if normalizer is None:
        return space, observations
    found: VecNormalize = read_normalizer(normalizer, space.shape)
    if not found.norm_obs:
        return space, observations
    normalised: Any = found.normalize_obs(observations)
    return spaces.Box(-found.clip_obs, found.clip_obs, space.shape, np.float32), normalised


def _networks(policy: Any) -> dict[str, nn.Module]:
    try:
        return networks_of(policy)
    except ValueError as error:
        raise UserError(str(error)) from error


def _reports(
    networks: Mapping[str, nn.Module],
    batch: Tensor,
    metrics: Sequence[str] = DEFAULT_METRICS,
    notes: Sequence[str] = (),
) -> dict[str, Report]:
    reports = {}
    for name, network in networks.items():
        try:
            with torch.no_grad():
                network(batch[:1])  # in a measurement, an error would be a figure that is NaN
            found = report(network, batch, metrics)
        except (ValueError, RuntimeError) as error:
            shape = tuple(batch.shape[1:])
            raise UserError(f"The network '{name}' on observations {shape}: {explain(error)}") from error
        own = [] if metrics is WEIGHT_METRICS else found.notes  # which are about activations
        reports[name] = replace(found, notes=[*own, *notes])
    return reports


def inspect_run(path: Path) -> dict[str, Report]:
    """Returns a report per network of the run in the folder `path`, as its own diagnostics see it.

    Raises:
        UserError: no run, or no checkpoint in it.
    """
    folder = RunFolder.existing(path)
    config = replace(plugins.recorded(folder), device="cpu")
    parts = restored(folder, config)
    sequence, common, task = parts.sequence, parts.switching.common, parts.switching.visit.task
    probes = load_or_collect(folder.probes, sequence, common, config.diagnostics.probe_size, config.seed)
    observations: Any = probes[task.index]
    normalizer = parts.agent.get_vec_normalize_env()
    if normalizer is not None:
        with statistics_of(normalizer, task.index):
            observations = normalizer.normalize_obs(observations)
    inputs = preprocess(parts.agent.policy, observations)
    parts.env.close()
    return _reports(parts.agent.learner.networks, inputs)


def spectra_figure(reports: Mapping[str, Report]) -> Figure:
    """Draws the singular values of every layer's Jacobian, sorted, one panel per network."""
    figure = Figure(figsize=(5 * len(reports), 3.5), dpi=110, layout="constrained")
    for axes, (name, found) in zip(
        figure.subplots(1, len(reports), squeeze=False)[0], reports.items(), strict=True
    ):
        for layer, values in found.values.get("layer_jacobian_spectrum", {}).items():
            if layer and isinstance(values, Tensor):
                axes.plot(values.sort(descending=True).values, label=layer)
        axes.axhline(1.0, color="0.6", lw=0.8, ls="--")
        axes.set(title=name, xlabel="index", ylabel="singular value of the layer Jacobian", yscale="log")
        axes.legend(fontsize=8)
    return figure


def save(reports: Mapping[str, Report], folder: Path) -> None:
    """Writes report.txt, report.json and, where there are spectra, spectra.png into `folder`.

    Raises:
        OSError: as writing files does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.txt").write_text(_text(reports) + "\n")
    numbers = {
        name: {
            metric: {
                layer or "network": value.tolist() if isinstance(value, Tensor) else value
                for layer, value in row.items()
            }
            for metric, row in found.values.items()
        }
        for name, found in reports.items()
    }
    write_json(folder / "report.json", numbers)
    if all("layer_jacobian_spectrum" in found.values for found in reports.values()):
        spectra_figure(reports).savefig(folder / "spectra.png")


def _text(reports: Mapping[str, Report]) -> str:
    return "\n\n".join(f"== {name} ==\n{found}" for name, found in reports.items())


def main(words: list[str] | None = None) -> None:
    """Runs the command with the arguments `words` (default: those of the process)."""
    parser = argparse.ArgumentParser(prog="isorl inspect", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument(
        "model", type=Path, help="a run folder, an SB3 zip, or a state dict saved with torch.save"
    )
    parser.add_argument("--env", help="of a file: Gymnasium id whose observations the network takes")
    parser.add_argument(
        "--activation", metavar="NAME", help=f"where the file does not say it: {', '.join(ACTIVATION_NAMES)}"
    )
    parser.add_argument(
        "--vec-normalize",
        type=Path,
        metavar="FILE",
        help="of a file: what VecNormalize.save wrote (not unpickled)",
    )
    parser.add_argument(
        "--trust", metavar="ALGORITHM", help="unpickle the zip as PPO, DQN, ...: runs code from it"
    )
    parser.add_argument(
        "--observations", type=int, default=64, help="of a file: size of the probe batch (64)"
    )
    parser.add_argument("--out", type=Path, help="folder for report.txt, report.json and spectra.png")
    given = parser.parse_args(words)
    try:
        reports = _inspected(given)
        with closed_pipe_is_no_error():
            print(_text(reports))
        if given.out is not None:
            _saved(reports, given.out)
    except (UserError, RunStopped) as error:
        say(f"isorl inspect: {error}")
        sys.exit(error.exit_code if isinstance(error, RunStopped) else 2)


def _inspected(given: argparse.Namespace) -> dict[str, Report]:
    if given.model.is_dir():
        if given.env or given.activation or given.trust or given.vec_normalize:
            raise UserError(
                "A run folder says itself which environment and networks it has; leave --env, --activation, "
                "--vec-normalize and --trust out."
            )
        return inspect_run(given.model)
    if not given.model.is_file():
        raise UserError(f"There is no file and no folder '{given.model}'.")
    if not given.env:
        raise UserError("--env is needed: a file of weights does not say what its network looks at.")
    if given.activation and given.activation not in ACTIVATION_NAMES:
        raise UserError(
            f"--activation cannot be '{given.activation}'. {nearest(given.activation, ACTIVATION_NAMES)}"
        )
    return inspect(
        given.model, given.env, given.activation, given.trust, given.observations, given.vec_normalize
    )


def _saved(reports: Mapping[str, Report], folder: Path) -> None:
    try:
        save(reports, folder)
    except OSError as error:
        raise UserError(f"'{folder}' cannot be written to: {error.strerror or explain(error)}.") from error
    with closed_pipe_is_no_error():
        print(f"\nSaved in {folder}.")


if __name__ == "__main__":
    main()
