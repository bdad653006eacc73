"""From the words of the command line to a checked RunConfig, with one clear message where that fails."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.singleton import Singleton
from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from isorl.configs.errors import UserError, nearest
from isorl.configs.schema import RunConfig
from isorl.configs.typed import typed

FOLDER = Path(__file__).parent
COMMANDS = ("resume", "play", "dry_run", "reference", "benchmark", "pack", "together")
"""What train.py should do; not part of a run."""
ALONE = ("resume", "play")
"""They take everything from an existing run folder."""


def register_resolvers() -> None:
    """Makes ${tuned:KEY,DEFAULT} known: the sequence's value of KEY for this agent, else DEFAULT."""

    def tuned(key: str, default: Any, *, _root_: DictConfig) -> Any:
        value = OmegaConf.select(_root_, f"sequence.tuning.{_root_.agent.name}.{key}", default=default)
        return OmegaConf.create(value) if isinstance(value, list) else value  # as OmegaConf wants lists

    OmegaConf.register_new_resolver("tuned", tuned, replace=True)


def resolve(composed: DictConfig) -> RunConfig:
    """The typed run of a composed configuration.

    Raises:
        UserError: a key, type or value that is not valid.
    """
    try:
        values = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(str(error).splitlines()[0]) from None
    assert isinstance(values, dict)
    return typed(RunConfig, {str(key): value for key, value in values.items() if key not in COMMANDS})


def groups() -> dict[str, list[str]]:
    """Every configuration group with its options."""
    return {
        folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
        for folder in sorted(FOLDER.iterdir())
        if folder.is_dir() and any(folder.glob("*.yaml"))
    }


def check_overrides(arguments: list[str]) -> list[str]:
    """The arguments for Hydra, after every name in them was checked.

    Raises:
        UserError: an unknown group option, key or malformed override, with the nearest valid name.
    """
    words = [word for word in arguments if "=" in word and not word.startswith("-")]
    stray = [word for word in arguments if "=" not in word and not word.startswith(("-", "~"))]
    flags = [word for word in arguments if word.startswith("-")]
    if stray and not flags:
        raise UserError(f"'{stray[0]}' is not KEY=VALUE. See python train.py --help.")
    overrides = _parsed(words)
    elsewhere = any(flag.startswith(("--config-dir", "-cd")) for flag in flags)  # options of the user's own
    for override in overrides:
        if not elsewhere:
            _check_option(override)
    keys = [override.key_or_group for override in overrides]
    for alone in ALONE:
        others = [key for key in keys if key != alone and not key.startswith("hydra")]
        if alone in keys and others:
            raise UserError(
                f"'{alone}' takes everything from the run folder; it cannot be combined with '{others[0]}'."
            )
    _check_launcher(overrides)
    many = "-m" in flags or "--multirun" in flags
    if "benchmark" in keys and not many:
        raise UserError("A benchmark is a grid of runs: python train.py -m +benchmark=NAME.")
    if not elsewhere:
        pairs = zip(words, overrides, strict=True)
        composed([word for word, override in pairs if not (many and override.is_sweep_override())])
    return [*arguments, "--resolve"] if "--cfg" in flags or "-c" in flags else arguments


def _parsed(words: list[str]) -> list[Any]:
    try:
        return OverridesParser.create().parse_overrides(words)
    except OverrideParseException as error:
        raise UserError(f"'{error.override}' cannot be read: {str(error).splitlines()[0]}") from None


def _check_option(override: Any) -> None:
    options = groups().get(override.key_or_group)
    if options is None:
        return
    if override.is_discrete_sweep():
        names = [word.strip("'\"") for word in override.sweep_string_iterator() if not word.startswith("[")]
    else:
        names = override.value() if isinstance(override.value(), list) else [override.value()]
    for name in names:
        if not (name is None and override.is_delete()) and str(name) not in options:
            raise UserError(f"There is no {override.key_or_group} '{name}'. {nearest(name, options)}")


NEEDED = {"ray": ("hydra_ray_launcher", "pip install 'ray[default]' && pip install --no-deps hydra-ray-launcher"),
          "slurm": ("hydra_submitit_launcher", "pip install hydra-submitit-launcher"),
          "submitit": ("hydra_submitit_launcher", "pip install hydra-submitit-launcher")}  # fmt: skip
"""Beginning of a launcher's name -> the plugin that it needs, and how to get it."""


def _check_launcher(overrides: list[Any]) -> None:
    """Raises UserError for a launcher that there is not, or whose plugin is not installed."""
    for override in overrides:
        if override.key_or_group != "hydra/launcher":
            continue
        name = str(override.value())
        plugin, how = NEEDED.get(name.split("_")[0], (None, ""))
        if plugin is not None and importlib.util.find_spec(f"hydra_plugins.{plugin}") is None:
            raise UserError(f"hydra/launcher={name} needs a plugin that is not installed: {how}.")
        presets = [file.stem for file in (FOLDER / "hydra" / "launcher").glob("*.yaml")]
        if plugin is None and name not in (known := [*presets, "basic", "joblib"]):
            raise UserError(f"There is no launcher '{name}'. {nearest(name, known)}")


def composed(words: list[str]) -> DictConfig:
    """The configuration of one run, not yet resolved; what Hydra is at, if it runs, is left as it is.

    Raises:
        UserError: a word that does not fit, with the nearest valid name.
    """
    register_resolvers()
    try:
        with _hydra():
            return compose("config", overrides=words)
    except ConfigCompositionException as error:
        raise UserError(_explained(str(error.__cause__ or error), words)) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_explained(str(error), words)) from None
    except (
        AttributeError,
        TypeError,
        ValueError,
    ) as error:  # OmegaConf's own, of values that it cannot put together
        raise UserError(f"'{' '.join(words)}' does not fit together: {_first_line(error)}") from None


@contextmanager
def _hydra() -> Iterator[None]:
    before = Singleton.get_state()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base=None, config_dir=str(FOLDER)):
            yield
    finally:
        Singleton.set_state(before)


def _explained(message: str, words: list[str]) -> str:
    """Hydra's message, or for an unknown key the nearest one."""
    unknown = next(
        (line.split("full_key: ")[1] for line in message.splitlines() if "full_key: " in line), None
    )
    if unknown is None:
        return message.splitlines()[0]
    with _hydra():
        chosen = [word for word in words if word.split("=")[0] in groups()]
        known = _flat_keys(compose("config", overrides=chosen))
    return f"'{unknown}' is not an option. {nearest(unknown, known) if _close(unknown, known) else 'See --help.'}"


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _close(name: str, known: list[str]) -> bool:
    return nearest(name, known).startswith("Did")


def _flat_keys(node: Any, prefix: str = "") -> list[str]:
    keys = []
    for key in node if isinstance(node, DictConfig) else []:
        keys.append(f"{prefix}{key}")
        if not OmegaConf.is_interpolation(node, key):
            keys += _flat_keys(node._get_node(key), f"{prefix}{key}.")
    return keys
