"""From the words of the command line to a checked RunConfig, with one clear message where that fails."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigNode, ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from isorl.configs import imports, played
from isorl.configs.errors import UserError, closest, nearest
from isorl.configs.program import command
from isorl.configs.schema import RunConfig
from isorl.configs.typed import typed

FOLDER = Path(__file__).parent
COMMANDS = ("resume", "play", "dry_run", "reference", "references", "benchmark", "pack", "together")
"""What the program should do; not part of a run."""
ALONE = ("resume", "play")
"""They take everything from an existing run folder, `imports` aside."""
GROWS = "sequence.cycles"
"""What `resume` may be given besides: a run goes on with more cycles than it was planned with."""
PATHS = (*ALONE, "run_dir")
"""Keys whose values are quoted for Hydra where it would stumble over a character."""
own_folders: list[str] = []
"""The folders of --config-dir, with configurations of the user's own; `prepared` and `use_folders` fill it."""


def register_resolvers() -> None:
    """Makes ${tuned:KEY,DEFAULT}, ${tuned:KEY,DEFAULT,OTHER}, ${command:WHAT} and those of configs/played.py known.

    The first is the sequence's value of KEY for the chosen agent with the chosen optimizer, else for the agent, else
    DEFAULT; null where the value OTHER beside it is given instead. ${command:...} is how to type a command.
    """

    def tuned(key: str, default: Any, other: str = "", *, _root_: DictConfig, _parent_: DictConfig) -> Any:
        if other and _parent_[other] is not None:
            return None
        of_agent = f"sequence.tuning.{_root_.agent.name}"
        value = OmegaConf.select(_root_, f"{of_agent}.{key}", default=default)
        value = OmegaConf.select(_root_, f"{of_agent}.{_root_.optimizer.name}.{key}", default=value)
        return OmegaConf.create(value) if isinstance(value, list) else value  # as OmegaConf wants lists

    OmegaConf.register_new_resolver("tuned", tuned, replace=True)
    OmegaConf.register_new_resolver("command", command, replace=True)
    played.register_resolvers()


def resolve(composed: DictConfig) -> RunConfig:
    """Returns the typed run of a composed configuration.

    Raises:
        UserError: a key, type or value that is not valid.
    """
    try:
        values = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        first = str(error).splitlines()[0]
        raise UserError(first.removeprefix("UserError raised while resolving interpolation: ")) from None
    assert isinstance(values, dict)
    return typed(
        RunConfig, {str(key): value for key, value in values.items() if key not in (*COMMANDS, *played.KEYS)}
    )


def roots() -> list[Path]:
    """Returns the folders that hold configurations: this one and those of the user."""
    return [FOLDER, *map(Path, own_folders)]


def groups() -> dict[str, list[str]]:
    """Returns every configuration group with its options: files here and in `own_folders`, and what was registered."""
    found: dict[str, set[str]] = {}
    for root in roots():
        for file in root.glob("*/*.yaml"):
            found.setdefault(file.parent.name, set()).add(file.stem)
    for group, names in ConfigStore.instance().repo.items():
        if isinstance(names, dict) and group in found:
            found[group] |= {
                name.removesuffix(".yaml") for name in names if isinstance(names[name], ConfigNode)
            }
    return {group: sorted(names) for group, names in sorted(found.items())}


def use_flags(flags: Iterable[str]) -> None:
    """Adds the folder that --config-dir names among `flags`, as `flags_and_words` gives them."""
    use_folders(flag.partition("=")[2] for flag in flags if flag.startswith(("--config-dir=", "-cd=")))


def use_folders(folders: Iterable[str]) -> None:
    """Adds folders with configurations of the user's own, laid out as configs/ is: sequence/NAME.yaml, ...

    Raises:
        UserError: a folder that does not exist.
    """
    for folder in folders:
        if not Path(folder).is_dir():
            raise UserError(f"--config-dir: there is no folder '{folder}'.")
        absolute = str(Path(folder).absolute())
        if absolute not in own_folders:
            own_folders.append(absolute)


def prepared(arguments: list[str]) -> list[str]:
    """Returns the command line in the form that Hydra and other processes take, its names not yet checked.

    Paths are quoted where they need it, the files of `imports` are absolute; `own_folders` has those of --config-dir.

    Raises:
        UserError: a flag that does not exist, a word that is not KEY=VALUE or cannot be read, a missing folder.
    """
    flags, words = flags_and_words(arguments)
    use_flags(flags)
    many = "-m" in flags or "--multirun" in flags
    return [*flags, *(_prepared_word(word, many) for word in words)]


def imports_in(words: Iterable[str]) -> list[str]:
    """Returns what the words `imports=[...]` name, in words that can be read."""
    return [
        str(entry)
        for override in _parsed([word for word in words if word.lstrip("+").startswith("imports=")])
        for entry in (override.value() if isinstance(override.value(), list) else [override.value()])
    ]


def check_overrides(arguments: list[str]) -> list[str]:
    """Returns the `prepared` arguments for Hydra, after every name in them was checked.

    Raises:
        UserError: an unknown group option, key or malformed override, with the nearest valid name.
    """
    flags, words = flags_and_words(arguments)
    overrides = _parsed(words)
    for override in overrides:
        _check_option(override)
    keys = [override.key_or_group for override in overrides]
    for alone in ALONE:
        may = (alone, "imports", *([GROWS] if alone == "resume" else []))
        others = [key for key in keys if key not in may and not key.startswith("hydra")]
        if alone in keys and others:
            more = f" Only '{GROWS}' may grow." if alone == "resume" else ""
            raise UserError(
                f"'{alone}' takes everything from the run folder; it cannot be combined with '{others[0]}'.{more}"
            )
    _check_launcher(overrides)
    many = "-m" in flags or "--multirun" in flags
    if "benchmark" in keys and not many:
        raise UserError(f"A benchmark is a grid of runs: {command('train')} -m +benchmark=NAME.")
    pairs = zip(words, overrides, strict=True)
    composed([word for word, override in pairs if not (many and override.is_sweep_override())])
    return (
        [*arguments, "--resolve"] if any(flag.startswith(("--cfg", "-c=")) for flag in flags) else arguments
    )


def flags_and_words(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Returns (flags of Hydra's, each with its value as --FLAG=VALUE; words KEY=VALUE).

    Raises:
        UserError: a flag that does not exist or lacks its value, a word that is not KEY=VALUE.
    """
    known = {name: action for action in get_args_parser()._actions for name in action.option_strings}
    flags, words, rest = [], [], list(arguments)
    while rest:
        word = rest.pop(0)
        flag, _, value = word.partition("=")
        if flag in known:
            takes_value = known[flag].nargs != 0
            if takes_value and not value and rest and not (known[flag].nargs == "?" and "=" in rest[0]):
                word = f"{flag}={rest.pop(0)}"
            elif takes_value and not value and known[flag].nargs is None:
                raise UserError(f"'{flag}' needs a value.")
            flags.append(word)
        elif word.startswith("-"):
            raise UserError(f"'{flag}' is not an option. {_flag_hint(flag, value, rest, list(known))}")
        elif "=" in word or word.startswith("~"):
            words.append(word)
        else:
            raise UserError(f"'{word}' is not KEY=VALUE. See {command('train')} --help.")
    return flags, words


def _flag_hint(flag: str, value: str, rest: list[str], known: list[str]) -> str:
    """Returns what to type instead of a flag that does not exist; most are values of a run."""
    if (hint := nearest(flag, known)).startswith("Did"):
        return hint
    value = value or (rest[0] if rest and not rest[0].startswith("-") and "=" not in rest[0] else "VALUE")
    return f"Values are given as KEY=VALUE: {flag.lstrip('-').replace('-', '_')}={value}"


def _prepared_word(word: str, many: bool) -> str:
    """Returns the word with its paths in the form that Hydra reads; in a grid, `run_dir=a,b` are two."""
    key, equals, value = word.partition("=")
    if key.lstrip("+") == "imports":
        return f"{key}=[{','.join(quoted(imports.absolute(entry)) for entry in imports_in([word]))}]"
    if key not in PATHS or not equals or _is_quoted(value) or (many and _readable(word)):
        return word
    return f"{key}={quoted(value)}"


def quoted(text: str) -> str:
    """Returns `text` in quotes, as Hydra reads it back."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _is_quoted(value: str) -> bool:
    return len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" and _readable(f"x={value}")


def _readable(word: str) -> bool:
    try:
        return bool(OverridesParser.create().parse_overrides([word]))
    except OverrideParseException:
        return False


def _parsed(words: list[str]) -> list[Any]:
    try:
        return OverridesParser.create().parse_overrides(words)
    except OverrideParseException as error:
        reason = str(error).splitlines()[0]
        if "Exception" in reason:  # of Hydra's lexer, which says no more
            reason = "put values with special characters into quotes, KEY=\"'VALUE'\""
        word = str(error.override)
        for opening, closing in ("[]", "{}", "()"):
            if word.count(opening) > word.count(closing):
                reason = f"a '{closing}' is missing"
        raise UserError(f"'{word}' cannot be read: {reason}") from None


def _check_option(override: Any) -> None:
    group = override.key_or_group
    options = groups().get(group)
    if options is None:
        return
    if override.is_discrete_sweep():
        names = [word.strip("'\"") for word in override.sweep_string_iterator() if not word.startswith("[")]
    else:
        names = override.value() if isinstance(override.value(), list) else [override.value()]
    for name in names:
        if not (name is None and override.is_delete()) and str(name) not in options:
            hint = nearest(name, options, f"isorl list {group}s")
            raise UserError(f"There is no {group} '{name}'. {hint}")
        if sum((root / group / f"{name}.yaml").is_file() for root in roots()) > 1:
            raise UserError(
                f"There are two of {group} '{name}': isorl's own and one in --config-dir. Rename yours."
            )


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
    """Returns the configuration of one run, not yet resolved; what Hydra is at, if it runs, is left as it is.

    Raises:
        UserError: a word that does not fit, with the nearest valid name.
    """
    register_resolvers()
    try:
        with _hydra():
            return compose("config", overrides=[*_search_path(), *words])
    except ConfigCompositionException as error:
        raise UserError(_explained(str(error.__cause__ or error), words)) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_explained(str(error), words)) from None
    except yaml.YAMLError as error:
        raise UserError(f"A YAML file cannot be read: {' '.join(str(error).split())}") from None
    except (
        AttributeError,
        TypeError,
        ValueError,
    ) as error:  # OmegaConf's own, of values that it cannot put together
        raise UserError(f"'{' '.join(words)}' does not fit together: {_first_line(error)}") from None


def _search_path() -> list[str]:
    """Returns the word that shows Hydra the user's own folders; none where there are none."""
    places = ",".join(quoted(f"file://{folder}") for folder in own_folders)
    return [f"hydra.searchpath=[{places}]"] if places else []


@contextmanager
def _hydra() -> Iterator[None]:
    Plugins.instance()  # now: the configurations of some plugins are stored at their first import alone
    before = Singleton.get_state()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base=None, config_dir=str(FOLDER)):
            yield
    finally:
        Singleton.set_state(before)


def _explained(message: str, words: list[str]) -> str:
    """Returns Hydra's message, or for an unknown key the nearest one."""
    if "remove + prefix: '" in message:
        without = message.split("remove + prefix: '")[1].partition("'\n")[0]
        return f"'+{without}' would add what is there already. Leave out the '+': {without}"
    if message.startswith("Could not override '") and (group := message.split("'")[1]) in groups():
        word = next((word for word in words if word.startswith(f"{group}=")), f"{group}=NAME")
        return f"'{word}' is added to what a run is made of: write +{word}"
    if message.startswith("Ambiguous value for argument"):
        word = message.split("'")[1]
        return f"'{word}' is several values, which make a grid: {command('train')} -m {word}"
    unknown = next(
        (line.split("full_key: ")[1] for line in message.splitlines() if "full_key: " in line), None
    )
    if unknown is None:
        return message.splitlines()[0]
    if unknown in played.KEYS:
        return f"'{unknown}' belongs to {played.KEYS[unknown]}; other sequences name their tasks themselves."
    chosen = [word for word in words if word.split("=")[0] in groups()]
    with _hydra():
        known = _flat_keys(compose("config", overrides=[*_search_path(), *chosen]))
        if owners := _owners(unknown):
            return f"'{unknown}' belongs to {' and '.join(owners)}. Choose that, or leave the option out."
    return f"'{unknown}' is not an option. {_nearest_key(unknown, known)}"


def _owners(unknown: str) -> list[str]:
    """Returns the other choices of an agent or optimizer, as words, that have this option."""
    group = unknown.partition(".")[0]
    words = [f"{group}={name}" for name in groups()[group]] if group in ("agent", "optimizer") else []
    return [
        word for word in words if unknown in _flat_keys(compose("config", overrides=[*_search_path(), word]))
    ]


def _nearest_key(unknown: str, known: list[str]) -> str:
    """Returns the hint for a key: the nearest beside it, else the same name elsewhere, else the nearest of all."""
    parent, dot, leaf = unknown.rpartition(".")
    beside = [key.rpartition(".")[2] for key in known if key.rpartition(".")[0] == parent]
    if (match := closest(leaf, beside)) is not None:
        return f"Did you mean '{parent}{dot}{match}'?"
    elsewhere = [key for key in known if key.rpartition(".")[2] == leaf]
    if (
        match := next(iter(elsewhere), None) or closest(unknown, [] if dot and beside else known)
    ) is not None:
        return f"Did you mean '{match}'?"
    return nearest(leaf, beside, f"{command('train')} --cfg job") if dot and beside else "See --help."


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _flat_keys(node: Any, prefix: str = "") -> list[str]:
    keys = []
    for key in node if isinstance(node, DictConfig) else []:
        keys.append(f"{prefix}{key}")
        if not OmegaConf.is_interpolation(node, key):
            keys += _flat_keys(node._get_node(key), f"{prefix}{key}.")
    return keys
