"""Random command lines: each describes a run, or is refused with one message; anything else is a fault."""

import functools
import pickle
import random
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest import mock

import hydra
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from isorl.agents.options import agent_options, check_metrics, make_methods, network_spec, optimizer_arguments
from isorl.configs import RunConfig, UserError, command_line
from isorl.configs.command_line import FOLDER, check_overrides, composed, groups, register_resolvers, resolve
from isorl.envs import Sequence
from tests.faults.short_runs import run_each

VALUES = ("0", "1", "-1", "1e-3", "1e400", "nan", "inf", "-inf", "null", "true", "[]", "[1]", "{}", "{a:1}", "abc",
          "''", "'a b'", "ü", "a=b", "${seed}", "${nothing}", "${oc.env:HOME}", "999999999999999999999", "0x10", "1_0",
          "../../etc", "[relu,tanh]", "[[1]]", "$(id)", "__import__('os')", "a,b", "[", "\\", "'", "*",
          "1.5")  # fmt: skip


GROUPS = groups()
SECONDS = 60
"""After which an answer counts as a hang; on a busy machine one took more than ten."""
CHECKED = 100
"""Every so many command lines, one is answered with Hydra's own composition too."""


def fuzz(folder: Path, count: int, seed: int, runs: int = 0) -> Counter:
    """How many of `count` command lines were accepted and how many refused; `runs` of those accepted are run.

    Raises:
        AssertionError: names those that were answered by another error than UserError, or by more than one line, and
            those whose run ended as none may.
    """
    chance, counts, faults, accepted = random.Random(seed), Counter(), {}, []
    register_resolvers()
    keys = _keys()
    signal.signal(signal.SIGALRM, _hang)
    for number in range(count):
        words = [_word(keys, chance) for _ in range(chance.choice((1, 1, 2, 3)))]
        line = [*words, f"run_dir={folder / 'run'}"]
        try:
            signal.alarm(SECONDS)
            with _quick():
                said = _answer(line)
            signal.alarm(0)
            if number % CHECKED == 0 and (slowly := _answer(line)) != said:
                raise ValueError(f"composed quickly '{said}', by Hydra '{slowly}'")
        except Exception as error:
            faults.setdefault(f"{type(error).__name__}: {error}"[:80], words)
            counts["faults"] += 1
        else:
            counts["refused" if said else "accepted"] += 1
            if not said:
                accepted.append(words)
        if number % 1_000 == 999:
            print(f"\r{dict(counts)}, {faults}", end="", file=sys.stderr, flush=True)
    assert not (folder / "run").exists()
    counts += run_each(folder, chance.sample(accepted, min(runs, len(accepted))), faults)
    assert not faults, f"{dict(counts)}: " + "; ".join(f"{words}: {said}" for said, words in faults.items())
    return counts


def _hang(number, frame):
    raise TimeoutError(f"no answer within {SECONDS} s")


def _answer(words: list[str]) -> str:
    """What train.py says to these words before it makes environments; nothing, if they describe a run."""
    try:
        check_overrides(words)
        _describe(resolve(composed(words)))
    except UserError as error:
        said = str(error)
        if not said.strip() or "\n" in said:
            raise ValueError(f"not one message: {error!r}") from error
        return said
    return ""


def _describe(config: RunConfig) -> None:
    """What `build` checks first, and as it does."""
    try:
        options, network = agent_options(config), network_spec(config)
        optimizer_arguments(config, network)
        make_methods(config)
        check_metrics(config)
        Sequence.from_config(config.sequence, config.seed, options.n_envs)
    except ValueError as error:
        raise UserError(str(error)) from error


@contextmanager
def _quick() -> Iterator[None]:
    """Inside, configurations are composed in milliseconds: Hydra reads thirty files for every command line."""
    GlobalHydra.instance().clear()
    with (
        initialize_config_dir(version_base=None, config_dir=str(FOLDER)),
        mock.patch.object(command_line, "_hydra", nullcontext),
        mock.patch.object(command_line, "compose", _compose),
        mock.patch.object(command_line, "groups", return_value=GROUPS),
    ):
        yield


def _compose(name: str, overrides: list[str]) -> DictConfig:
    """Hydra's `compose`, with values put into a copy of what was composed of the same choices before."""
    chosen, values = [], []
    for word, override in zip(overrides, OverridesParser.create().parse_overrides(overrides), strict=True):
        key = override.key_or_group
        if (
            key.startswith("hydra")
            or override.package
            or override.is_sweep_override()
            or override.is_delete()
        ):
            return hydra.compose(name, overrides=overrides)
        is_choice = key in GROUPS and not isinstance(override.value(), dict)
        chosen.append(word) if is_choice else values.append(override)
    config = pickle.loads(_composed_choices(name, tuple(chosen)))
    ConfigLoaderImpl._apply_overrides_to_config(values, config)
    return config


@functools.lru_cache(maxsize=2_000)
def _composed_choices(name: str, chosen: tuple[str, ...]) -> bytes:
    return pickle.dumps(hydra.compose(name, overrides=list(chosen)))


def _keys() -> list[str]:
    """Every key of a few different compositions."""
    found: set[str] = set()
    for words in ([], ["agent=dqn", "method=[redo,l2_init]"], ["optimizer=adamw", "sequence=lunar_drift"]):
        found |= set(_flat(composed(words)))
    return sorted(found - {"run_dir", "resume", "play"})


def _flat(node: DictConfig, prefix: str = "") -> list[str]:
    keys = []
    for key in node:
        keys.append(f"{prefix}{key}")
        if not OmegaConf.is_interpolation(node, key) and isinstance(node._get_node(key), DictConfig):
            keys += _flat(node[key], f"{prefix}{key}.")
    return keys


def _word(keys: list[str], chance: random.Random) -> str:
    act = chance.random()
    if act < 0.25:
        group, options = chance.choice(
            [entry for entry in GROUPS.items() if entry[0] != "hydra" and entry[1]]
        )
        name = chance.choice(options)
        return f"{group}={_broken(name, chance) if chance.random() < 0.3 else name}"
    key = chance.choice(keys)
    if act < 0.4:
        key = _broken(key, chance)
    value = chance.choice(VALUES) if chance.random() < 0.7 else str(chance.choice((2, 3, 64, 0.5, 1e-4)))
    return f"{chance.choice(('', '', '', '+', '++'))}{key}={value}"


def _broken(name: str, chance: random.Random) -> str:
    """One character lost, doubled or exchanged."""
    at = chance.randrange(len(name))
    return name[:at] + chance.choice(("", name[at] * 2, chance.choice("abc._-/ é"))) + name[at + 1 :]
