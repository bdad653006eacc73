"""Reads agents of stable-baselines3, and of ours, from their files without running code from them.

Of a zip the JSON part and the tensors are read: class, arguments and spaces of the policy stand there as text, and
stable-baselines3 itself builds the policy from them. Where the text does not say what the policy was, it is refused.
"""

from __future__ import annotations

import ast
import inspect
import io
import json
import math
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.torch_layers import FlattenExtractor, NatureCNN
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn

import isorl.agents  # noqa: F401  (its policies become subclasses of BasePolicy)
from isorl.configs import UserError, imports
from isorl.experiments.terminal import explain
from isorl.plasticity.networks import ACTIVATIONS, MaxMin, NetworkSpec

TRUST = "--trust ALGORITHM loads it, which runs code from the file."
PACKAGES = ("stable_baselines3.", "isorl.agents.")
"""Where policies come from that are built from their description."""
IN_NO_POLICY = (":type:", ":serialized:", "optimizer_class", "optimizer_kwargs", "precision")
"""Keys of `policy_kwargs` on which no network depends."""
NAMED_CLASS = re.compile(r"<class '(.+)'>")


def activation_named(name: str) -> Callable[[], nn.Module]:
    """Returns what makes the activation `name` of ACTIVATIONS for vectors."""
    return partial(ACTIVATIONS[name].build, -1)


ACTIVATION_NAMES = sorted(name for name, entry in ACTIVATIONS.items() if entry.copies == 1)
"""Activations that a network of stable-baselines3 can have: of as many features as they read."""


@dataclass(frozen=True)
class AgentFile:
    """What the zip of an agent says in JSON and tensors.

    Args:
        path: the zip.
        description: its JSON part, in which what was pickled is text.
        weights: the policy's state dict.
    """

    path: Path
    description: Mapping[str, Any]
    weights: Mapping[str, Tensor]

    @property
    def is_normalized(self) -> bool:
        """Whether the agent learned on observations that VecNormalize had normalised."""
        return self.description.get("_last_original_obs") is not None

    @property
    def unknown_activation(self) -> str | None:
        """What the file calls the activation, where that is none of torch's, ours or `imports`'s."""
        given = self._policy_kwargs().get("activation_fn")
        return None if given is None or _class_named(given) in _activations() else str(given)

    def build(
        self, observation: spaces.Box, action: spaces.Space, activation: str | None = None
    ) -> BasePolicy:
        """Returns the policy with its weights, for observations and actions of these spaces.

        Args:
            observation: what the policy reads; images channels-first.
            action: what it answers.
            activation: a name in ACTIVATION_NAMES where the activation is unknown. None: then the default of the
                policy's class stands in, and only figures of the weights are the agent's.

        Raises:
            UserError: a policy that the file does not describe completely, or that does not fit the spaces.
        """
        cls = self._policy_class()
        check_observations(self.description.get("observation_space"), observation)
        arguments = dict(self._arguments(activation))
        if issubclass(cls, ActorCriticPolicy):
            arguments.setdefault("use_sde", self.description.get("use_sde", False))
        try:
            with torch.random.fork_rng(devices=[]):
                policy = cls(observation, action, lambda _: 0.0, **arguments)
        except Exception as error:  # whatever a constructor answers to arguments that it does not know
            raise UserError(
                f"'{self.path}' does not describe a {cls.__name__} for observations {observation} and actions "
                f"{action}: {explain(error)}"
            ) from error
        _load(policy, self.weights, self.path)
        policy.set_training_mode(False)
        return policy

    def _policy_class(self) -> type[BasePolicy]:
        described = self.description.get("policy_class")
        described = described if isinstance(described, dict) else {}
        # the JSON part names no class, but the methods that it defines, beginning with its own __init__
        methods = " ".join(map(str, [described.get("__init__"), *described.values()]))
        found = re.search(r"<function (\w+)\.", methods)
        name = f"{described.get('__module__')}.{found[1] if found else '?'}"
        if "spaces.dict.Dict" in str(self.description.get("observation_space")):
            raise UserError(
                f"The agent in '{self.path}' reads Dict observations: its networks have several inputs, which is "
                "not supported."
            )
        known = {f"{cls.__module__}.{cls.__name__}": cls for cls in _subclasses(BasePolicy)}
        if name not in known or not name.startswith(PACKAGES):
            raise UserError(
                f"The policy '{name}' in '{self.path}' is neither stable-baselines3's nor ours: its networks "
                f"cannot be built without its code. {TRUST}"
            )
        return known[name]

    def _policy_kwargs(self) -> dict[str, Any]:
        given = self.description.get("policy_kwargs") or {}
        return {key: value for key, value in given.items() if key not in IN_NO_POLICY}

    def _arguments(self, activation: str | None) -> Iterator[tuple[str, Any]]:
        extractors = {_name_of(cls): cls for cls in (FlattenExtractor, NatureCNN)}
        if activation and not self.unknown_activation:
            raise UserError(f"'{self.path}' says which activation it has; leave --activation out.")
        for key, value in self._policy_kwargs().items():
            if key == "activation_fn" and value is not None:
                known = _activations().get(_class_named(value))
                if known or activation:
                    yield key, known or activation_named(str(activation))
            elif key == "features_extractor_class" and _class_named(value) in extractors:
                yield key, extractors[_class_named(value)]
            elif key == "network" and value is not None:
                yield key, _network_spec(value, self.path)
            elif isinstance(value, str):  # the text of what was pickled, from which it cannot be made again
                raise UserError(
                    f"'{key}' of the policy in '{self.path}' is {value}, which cannot be built without its code. "
                    f"{TRUST}"
                )
            else:
                yield key, value


def read_agent(path: Path) -> AgentFile | None:
    """Returns the agent in an SB3 zip; None: the file is no such zip.

    Raises:
        UserError: no such file, or a zip that does not open without running code from it.
    """
    if not path.is_file():
        raise UserError(f"There is no file '{path}'.")
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            if "policy.pth" not in archive.namelist():
                return None
            description = json.loads(archive.read("data"))
            weights = archive.read("policy.pth")
    except Exception as error:
        raise UserError(f"'{path}' is no complete zip of an agent: {explain(error)}") from error
    if not isinstance(description, dict) or not isinstance(description.get("policy_kwargs") or {}, dict):
        raise UserError(f"'{path}' is no complete zip of an agent: its data describe none.")
    return AgentFile(path, description, _tensors(io.BytesIO(weights), path))


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Returns the state dict in a file of torch.save.

    Raises:
        UserError: no such file, or one that does not open without running code from it.
    """
    if not path.is_file():
        raise UserError(f"There is no file '{path}'.")
    return _tensors(path, path)


def _tensors(content: io.BytesIO | Path, path: Path) -> dict[str, Tensor]:
    try:
        weights = torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"'{path}' does not open as weights alone: {explain(error)}") from error
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(f"'{path}' holds no state dict: a mapping of names to tensors was expected.")
    return dict(weights)


def chain_of_linears(weights: Mapping[str, Tensor], activation: str | None) -> nn.Sequential:
    """Returns Linear, activation, Linear, ... as torch's Sequential names them: `0.weight`, `0.bias`, `2.weight`, ...

    A state dict does not say what is computed between its weights, so nothing else is taken for a network.

    Args:
        weights: a state dict; names may have one prefix before their numbers.
        activation: a name in ACTIVATION_NAMES; None: the identity stands in.

    Raises:
        UserError: a key or a shape that such a network does not have.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    prefix, expected, width = None, None, None
    for key in weights:
        match = re.fullmatch(r"(|.*\.)(\d+)\.(weight|bias)", key)
        if not match:
            raise _not_a_chain(key, "no layer of a Sequential has that name")
        if match[3] == "bias":
            if f"{match[1]}{match[2]}.weight" not in weights:
                raise _not_a_chain(key, "it has no weight beside it")
            continue
        number, weight = int(match[2]), weights[key]
        if prefix not in (None, match[1]) or expected not in (None, number):
            raise _not_a_chain(key, f"'{prefix}{expected}.weight' was expected")
        if weight.ndim != 2 or width not in (None, weight.shape[1]):
            reads = "a matrix" if width is None else f"a matrix that reads {width} features"
            raise _not_a_chain(key, f"its shape is {tuple(weight.shape)}, and {reads} was expected")
        bias = weights.get(f"{match[1]}{number}.bias")
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
        layers += [layer, activation_named(activation or "identity")()]
        prefix, expected, width = match[1], number + 2, weight.shape[0]
    if len(layers) == 1:
        raise UserError("There are no layers in these weights.")
    return nn.Sequential(*layers[:-1])


def _not_a_chain(key: str, why: str) -> UserError:
    return UserError(
        f"'{key}' is part of no chain of linear layers: {why}. A state dict says nothing else about its network; "
        "hand the module itself to isorl.plasticity.diagnostics.report, or give an agent's zip."
    )


def check_observations(described: Any, space: spaces.Box) -> None:
    """Compares the observation space in an agent's JSON with the one that it is looked at with.

    Raises:
        UserError: vectors of another length, other images.
    """
    if (
        not isinstance(described, dict)
        or not isinstance(described.get("_shape"), list)
        or "box" not in str(described.get(":type:"))
    ):
        return  # classes and digits become vectors, whose length the first layer checks
    shape = tuple(described["_shape"])
    same = (
        shape == space.shape
        if 3 in (len(shape), len(space.shape))
        else math.prod(shape) == math.prod(space.shape)
    )
    bytes_ = described.get("dtype") == "uint8", space.dtype == np.uint8
    if not same or bytes_[0] != bytes_[1]:
        raise UserError(
            f"The agent reads observations of shape {shape} ({described.get('dtype')}), and the environment gives "
            f"{space.shape} ({space.dtype})."
        )


def read_normalizer(path: Path, shape: tuple[int, ...]) -> VecNormalize:
    """Returns the VecNormalize in a file of its `save`; all that is not a number in it is dropped, not made.

    Args:
        path: the file.
        shape: of an observation.

    Raises:
        UserError: no such file, another content, or statistics of other observations.
    """
    if not path.is_file():
        raise UserError(f"There is no file '{path}'.")
    try:
        with path.open("rb") as file:
            normalizer = _Numbers(file).load()
    except Exception as error:
        raise UserError(f"'{path}' does not open as statistics alone: {explain(error)}") from error
    if not isinstance(normalizer, VecNormalize):
        raise UserError(f"'{path}' holds no VecNormalize.")
    if not normalizer.norm_obs:
        return normalizer
    statistics: Any = vars(normalizer).get("obs_rms")
    if not isinstance(statistics, RunningMeanStd):
        raise UserError(f"The VecNormalize in '{path}' is of Dict observations, which are not supported.")
    if np.shape(statistics.mean) != shape:
        raise UserError(
            f"The statistics in '{path}' are of observations {np.shape(statistics.mean)}, and the environment "
            f"gives {shape}."
        )
    return normalizer


class _Inert:
    """Stands in for what a pickle names and nobody needs; making one runs nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


class _Numbers(pickle.Unpickler):
    """Unpickles running statistics and arrays alone, as Python's "Restricting Globals" describes."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns what the pickle may use under this name: an `_Inert` for all that is not listed."""
        known = {_name_of(cls): cls for cls in (VecNormalize, RunningMeanStd, np.ndarray, np.dtype)}
        arrays = {"multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer"}
        where = re.sub(r"^numpy\._?core\.", "", f"{module}.{name}")
        return super().find_class(module, name) if where in arrays else known.get(where, _Inert)


def _load(policy: BasePolicy, weights: Mapping[str, Tensor], path: Path) -> None:
    """Gives every weight of the policy its value, and every value of the file its weight."""
    own = policy.state_dict(keep_vars=True)
    given = {id(own[key]) for key in own if key in weights}  # older files name a shared extractor once
    wrong = [f"{key} is unknown" for key in weights if key not in own]
    wrong += [f"{key} is missing" for key in own if key not in weights and id(own[key]) not in given]
    wrong += [
        f"{key} is {tuple(weights[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in weights and weights[key].shape != own[key].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(
            f"The weights in '{path}' are not those of its {type(policy).__name__} on this environment: "
            f"{', '.join(wrong[:3])}{more}."
        )
    policy.load_state_dict(weights, strict=False)


def _network_spec(text: Any, path: Path) -> NetworkSpec:
    """Makes a NetworkSpec of what it prints; the values are literals."""
    try:
        call: Any = ast.parse(str(text), mode="eval").body
        if call.func.id != "NetworkSpec" or call.args:
            raise ValueError("it is no NetworkSpec")
        return NetworkSpec(**{word.arg: ast.literal_eval(word.value) for word in call.keywords})
    except Exception as error:
        raise UserError(f"The network in '{path}', {text}, is unknown: {explain(error)}") from error


def _activations() -> dict[str, type[nn.Module]]:
    """Returns torch's activations, ours, and those of modules that the user has named with imports=[...]."""
    named = [vars(module).values() for module in (nn.modules.activation, *imports.modules())]
    classes = [
        cls for values in named for cls in values if inspect.isclass(cls) and issubclass(cls, nn.Module)
    ]
    return {_name_of(cls): cls for cls in (*classes, nn.Identity, MaxMin)}


def _name_of(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _class_named(text: Any) -> str:
    """Returns the name in `<class 'package.Name'>`, as the JSON part has it; "" for anything else."""
    match = NAMED_CLASS.fullmatch(str(text))
    return match[1] if match else ""


def _subclasses(cls: Any) -> Iterator[type]:
    for child in cls.__subclasses__():
        yield child
        yield from _subclasses(child)
