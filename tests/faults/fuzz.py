"""Random command lines: each describes a run, or is refused with one message; anything else is a fault."""

import random
from collections import Counter
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from agents.options import agent_options, make_methods, network_spec, optimizer_arguments
from configs import UserError
from configs.command_line import FOLDER, check_overrides, groups, register_resolvers, resolve
from envs import Sequence

VALUES = ("0", "1", "-1", "1e-3", "1e400", "nan", "inf", "-inf", "null", "true", "[]", "[1]", "{}", "{a:1}", "abc",
          "''", "'a b'", "ü", "a=b", "${seed}", "${nothing}", "${oc.env:HOME}", "999999999999999999999", "0x10", "1_0",
          "../../etc", "[relu,tanh]", "[[1]]", "$(id)", "__import__('os')", "a,b", "[", "\\", "'", "*",
          "1.5")  # fmt: skip


def fuzz(folder: Path, count: int, seed: int) -> Counter:
    """How many of `count` command lines were accepted and how many refused.

    Raises:
        AssertionError: one that was answered by another error than UserError, or by more than one line.
    """
    chance, counts = random.Random(seed), Counter()
    keys = _keys()
    for _ in range(count):
        words = [_word(keys, chance) for _ in range(chance.choice((1, 1, 2, 3)))]
        try:
            answer = _answer([*words, f"run_dir={folder / 'run'}"])
        except Exception as error:
            raise AssertionError(f"{words}: {type(error).__name__}: {error}") from error
        counts[answer] += 1
    assert not (folder / "run").exists()
    return counts


def _answer(words: list[str]) -> str:
    """What train.py does with these words before it makes environments."""
    try:
        check_overrides(words)
        GlobalHydra.instance().clear()
        register_resolvers()
        with initialize_config_dir(version_base=None, config_dir=str(FOLDER)):
            config = resolve(compose("config", overrides=words))
        options, network = agent_options(config), network_spec(config)
        optimizer_arguments(config, network)
        make_methods(config)
        Sequence.from_config(config.sequence, config.seed, options.n_envs)
    except UserError as error:
        if not str(error) or "\n" in str(error):
            raise ValueError(f"not one message: {error!r}") from error
        return "refused"
    return "accepted"


def _keys() -> list[str]:
    """Every key of a few different compositions."""
    found: set[str] = set()
    for words in ([], ["agent=dqn", "method=[redo,l2_init]"], ["optimizer=adamw", "sequence=lunar_drift"]):
        GlobalHydra.instance().clear()
        register_resolvers()
        with initialize_config_dir(version_base=None, config_dir=str(FOLDER)):
            found |= set(_flat(compose("config", overrides=words)))
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
            [entry for entry in groups().items() if entry[0] != "hydra" and entry[1]]
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
