"""What the user's own modules register becomes a choice of the command line, without a YAML file."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from isorl.agents.options import AGENTS, OPTIMIZERS
from isorl.configs import RunConfig, UserError, imports
from isorl.configs.command_line import FOLDER, use_folders
from isorl.envs.sequence import modules_of
from isorl.experiments.run.folder import RunFolder
from isorl.plasticity.methods import METHODS
from isorl.plasticity.networks import NETWORKS


def load(entries: Iterable[str]) -> None:
    """Imports modules that the user named, and offers what they register: method=[theirs], network=theirs, ...

    Raises:
        UserError: a module that cannot be imported.
    """
    imports.take(entries)
    for group, registry in REGISTRIES.items():
        for name in registry:
            if not (FOLDER / group / f"{name}.yaml").is_file():
                ConfigStore.instance().store(name, choice(group, name), group=group, provider="imports")


REGISTRIES: dict[str, Mapping[str, Any]] = {
    "method": METHODS,
    "network": NETWORKS,
    "optimizer": OPTIMIZERS,
    "agent": AGENTS,
}
"""Group of configurations -> what can be registered for it."""


def choice(group: str, name: str) -> dict[str, Any]:
    """Returns the defaults of what is registered as `name`, in the shape of the group's YAML files."""
    entry = REGISTRIES[group][name]
    if group == "network":
        return _plain(dataclasses.asdict(entry))
    options = defaults(entry[-1] if isinstance(entry, tuple) else entry)
    if group == "method":
        return {name: options}
    return {**(tunable(options) if group == "agent" else options), "name": name}


def about(group: str, name: str) -> str:
    """Returns the first line of the docstring of what is registered as `name`; of a network its values."""
    found = REGISTRIES[group][name]
    entry = found[-1] if isinstance(found, tuple) else found
    return (inspect.getdoc(entry) or "").partition("\n")[0] if isinstance(entry, type) else str(entry)


def defaults(options: type) -> dict[str, Any]:
    """Returns the defaults of a dataclass of options as plain values.

    Raises:
        UserError: it is none, or an option has no default.
    """
    if not dataclasses.is_dataclass(options):
        raise UserError(
            f"{options.__name__} of '{options.__module__}' is registered, but is no dataclass, from whose fields its "
            "options are read. Put @dataclass below the line that registers it."
        )
    if missing := [field.name for field in dataclasses.fields(options) if _has_no_default(field)]:
        raise UserError(
            f"{options.__name__} of '{options.__module__}' needs a default of {', '.join(missing)}."
        )
    return _plain(dataclasses.asdict(options()))


def _has_no_default(field: dataclasses.Field) -> bool:
    return field.init and field.default is field.default_factory is dataclasses.MISSING


def tunable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an agent's options, its numbers as defaults that a sequence's `tuning` may replace."""

    def replaceable(value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool)

    return {
        key: f"${{tuned:{key},{value}}}" if replaceable(value) else value for key, value in values.items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def in_worker(composed: DictConfig) -> None:
    """Imports in a grid's worker what the grid's command line named, and finds its folders again.

    Raises:
        UserError: a module that the worker cannot import.
    """
    sources = HydraConfig.get().runtime.config_sources
    use_folders(source.path for source in sources if source.provider == "command-line")
    load(composed.imports)


def recorded(folder: RunFolder) -> RunConfig:
    """Returns the configuration of an earlier run, after what it imports was imported and named on the terminal.

    Raises:
        UserError: a module that the user neither has on sys.path nor named (configs/imports.py has the rules).
    """
    config = folder.load_config()
    for line in imports.take_recorded([*config.imports, *modules_of(config.sequence)], folder.path):
        print(line, file=sys.stderr)
    return config
