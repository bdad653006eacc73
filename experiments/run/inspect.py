"""A plasticity report on a run of ours, or on somebody's stable-baselines3 agent or state dict.

    isorl inspect RUN_DIR [--out DIR]
    isorl inspect model.zip --env CartPole-v1 [--out DIR]

A run folder says everything itself: its newest checkpoint is looked at on its own probe batch of the task that it was
in. Of a file the weights alone are read, with torch's `weights_only`, and the networks are rebuilt from their shapes:
nothing in it can run code. What weights cannot tell is the activation; it is the algorithm's default unless
--activation says.
`--trust ALGORITHM` loads the zip with stable-baselines3 instead, which unpickles it.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import stable_baselines3
import torch
from matplotlib.figure import Figure
from stable_baselines3.common.preprocessing import preprocess_obs
from torch import Tensor, nn

from isorl.agents.policies import preprocess
from isorl.agents.sb3 import networks_of
from isorl.configs import SequenceConfig, TaskConfig, UserError, nearest
from isorl.envs import Sequence
from isorl.envs.normalize import statistics_of
from isorl.envs.switching import common_spaces
from isorl.experiments import plugins
from isorl.experiments.run.folder import RunFolder, write_json
from isorl.experiments.run.play import restored
from isorl.experiments.run.probes import collect_probe, load_or_collect
from isorl.plasticity.diagnostics import Report, report

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU}
NATURE_STRIDES = (4, 2, 1)
BODIES = {
    "actor": (r"features_extractor\.", r"mlp_extractor\.policy_net\.", r"action_net\."),
    "critic": (r"features_extractor\.", r"mlp_extractor\.value_net\.", r"value_net\."),
    "q": (r"q_net\.features_extractor\.", r"q_net\.q_net\."),
}
"""Network -> where SB3 keeps its layers, from input to output."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights in an SB3 zip or in a file of torch.save.

    Raises:
        UserError: no such file, or one that does not open without running code from it.
    """
    if not path.is_file():
        raise UserError(f"There is no file '{path}'.")
    try:
        content: io.BytesIO | Path = path
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if "policy.pth" in archive.namelist():
                    content = io.BytesIO(archive.read("policy.pth"))
        weights = torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"'{path}' does not open as weights alone: {str(error).splitlines()[0]}") from error
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(f"'{path}' holds no state dict: a mapping of names to tensors was expected.")
    return dict(weights)


def rebuild(weights: Mapping[str, Tensor], activation: str | None = None) -> dict[str, nn.Sequential]:
    """Networks from the shapes of their weights: actor and critic, q, or one plain chain of layers.

    Args:
        weights: an SB3 policy's state dict, or that of a chain of Linear and Conv2d layers.
        activation: "tanh" or "relu"; None: SB3's default (relu for q and for images, else tanh).

    Raises:
        UserError: weights that do not form such networks.
    """
    found = {}
    for name, prefixes in BODIES.items():
        if not any(re.match(prefixes[-1], key) for key in weights):
            continue
        keys = [key for prefix in prefixes for key in weights if re.match(prefix, key)]
        chosen = activation or ("relu" if name == "q" or any("cnn" in key for key in keys) else "tanh")
        found[name] = _chain([key for key in keys if key.endswith(".weight")], weights, chosen)
    if found:
        return found
    return {
        "network": _chain([key for key in weights if key.endswith("weight")], weights, activation or "relu")
    }


def _chain(keys: list[str], weights: Mapping[str, Tensor], activation: str) -> nn.Sequential:
    """Layers in the order of `keys`, an activation after all but the last; images are flattened once."""
    layers: list[nn.Module] = []
    convolutions = 0
    for key in keys:
        weight, bias = weights[key], weights.get(key.removesuffix("weight") + "bias")
        layer: nn.Linear | nn.Conv2d
        if weight.ndim == 4:
            stride = NATURE_STRIDES[min(convolutions, 2)]
            kernel = (weight.shape[2], weight.shape[3])
            layer = nn.Conv2d(weight.shape[1], weight.shape[0], kernel, stride, bias=bias is not None)
            convolutions += 1
        elif weight.ndim == 2:
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
            if not any(isinstance(previous, nn.Linear) for previous in layers):
                layers.append(nn.Flatten())
        else:
            raise UserError(
                f"'{key}' has shape {tuple(weight.shape)}: only Linear and Conv2d layers are rebuilt."
            )
        layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
        layers += [layer, ACTIVATIONS[activation]()]
    if not layers:
        raise UserError("There are no layers in these weights.")
    return nn.Sequential(*layers[:-1])


def probe_batch(env_id: str, size: int, seed: int) -> Tensor:
    """(size, ...) preprocessed observations of a random agent; ALE games as 84x84x4."""
    task = TaskConfig(env=env_id, agent_steps=1)
    sequence = Sequence.from_config(SequenceConfig(name="inspect", tasks=[task]), seed)
    common = common_spaces(sequence)
    observations = torch.as_tensor(collect_probe(sequence.tasks[0], common, size, seed))
    return preprocess_obs(observations, common.observation)  # type: ignore[return-value]


def inspect(
    path: Path, env_id: str, activation: str | None, trust: str | None, size: int
) -> dict[str, Report]:
    """A report per network of the agent in `path` on observations of `env_id`.

    Raises:
        UserError: a file, an environment or an activation that does not fit.
    """
    batch = probe_batch(env_id, size, seed=0)
    networks: Mapping[str, nn.Module]
    if trust is None:
        networks = rebuild(read_weights(path), activation)
    else:
        algorithms = ("PPO", "A2C", "DQN", "SAC", "TD3", "DDPG")
        if trust not in algorithms:
            raise UserError(f"There is no algorithm '{trust}'. {nearest(trust, algorithms)}")
        networks = networks_of(getattr(stable_baselines3, trust).load(path, device="cpu").policy)
    try:
        with torch.no_grad():
            for network in networks.values():
                network(batch[:1])
    except RuntimeError as error:
        raise UserError(f"The network does not take the observations of '{env_id}': {error}") from error
    return {name: report(network, batch) for name, network in networks.items()}


def inspect_run(path: Path) -> dict[str, Report]:
    """A report per network of the run in the folder `path`, as its own diagnostics see it.

    Raises:
        UserError: no run, or no checkpoint in it.
    """
    folder = RunFolder.existing(path, "inspect")
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
    return {name: report(network, inputs) for name, network in parts.agent.learner.networks.items()}


def spectra_figure(reports: Mapping[str, Report]) -> Figure:
    """Singular values of every layer's Jacobian, sorted, one panel per network."""
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
    """report.txt, report.json and spectra.png in `folder`."""
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
    spectra_figure(reports).savefig(folder / "spectra.png")


def _text(reports: Mapping[str, Report]) -> str:
    return "\n\n".join(f"== {name} ==\n{found}" for name, found in reports.items())


def main(words: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="isorl inspect", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument(
        "model", type=Path, help="a run folder, an SB3 zip, or a state dict saved with torch.save"
    )
    parser.add_argument("--env", help="of a file: Gymnasium id whose observations the network takes")
    parser.add_argument(
        "--activation", choices=sorted(ACTIVATIONS), help="where the algorithm's default was changed"
    )
    parser.add_argument(
        "--trust", metavar="ALGORITHM", help="unpickle the zip as PPO, DQN, ...: runs code from it"
    )
    parser.add_argument(
        "--observations", type=int, default=64, help="of a file: size of the probe batch (64)"
    )
    parser.add_argument("--out", type=Path, help="folder for report.txt, report.json and spectra.png")
    given = parser.parse_args(words)
    is_run = given.model.is_dir()
    if is_run and (given.env or given.activation or given.trust):
        parser.error("a run folder says itself which environment and networks it has; leave the options out")
    if not is_run and not given.env:
        parser.error("--env is needed: a file of weights does not say what its network looks at")
    try:
        if is_run:
            reports = inspect_run(given.model)
        else:
            reports = inspect(given.model, given.env, given.activation, given.trust, given.observations)
    except UserError as error:
        print(f"inspect: {error}", file=sys.stderr)
        sys.exit(2)
    print(_text(reports))
    if given.out is not None:
        save(reports, given.out)
        print(f"\nSaved in {given.out}: {', '.join(sorted(file.name for file in given.out.iterdir()))}")


if __name__ == "__main__":
    main()
