"""The YAML files and the dataclasses say the same."""

import dataclasses

import pytest
from omegaconf import OmegaConf

from isorl.agents.options import AGENTS, OPTIMIZERS
from isorl.configs import UserError, nearest, typed
from isorl.configs.command_line import COMMANDS, FOLDER, groups
from isorl.configs.schema import RunConfig, SequenceConfig, SwitchConfig, TaskConfig
from isorl.experiments import method_files
from isorl.plasticity import NetworkSpec
from isorl.plasticity.methods import METHODS


def fields(schema):
    return {field.name for field in dataclasses.fields(schema)}


def load(file):
    return OmegaConf.to_container(OmegaConf.load(FOLDER / file))  # reads 1e-3 as a number, as Hydra does


def read(group, name):
    return load(f"{group}/{name}.yaml")


def test_config_yaml_has_every_value_of_a_run():
    top = load("config.yaml")
    chosen = {"agent", "network", "optimizer", "method", "sequence"}
    assert set(top) - {"defaults", "hydra", *COMMANDS} == fields(RunConfig) - chosen
    for name in ("switch", "normalize", "diagnostics", "evaluation", "checkpoint"):
        schema = next(f for f in dataclasses.fields(RunConfig) if f.name == name).default_factory
        part = OmegaConf.create({name: top[name]})  # on its own, so that a sequence's tuning is absent
        given = OmegaConf.to_container(part, resolve=True)[name]
        assert given == dataclasses.asdict(schema()), f"defaults of '{name}' differ"


@pytest.mark.parametrize("name", groups()["agent"])
def test_agent_yaml_has_every_option(name):
    assert set(read("agent", name)) == fields(AGENTS[name][1])


@pytest.mark.parametrize("name", groups()["optimizer"])
def test_optimizer_yaml_has_every_option(name):
    assert set(read("optimizer", name)) == fields(OPTIMIZERS[name][1])


@pytest.mark.parametrize("name", groups()["network"])
def test_network_yaml_is_a_network(name):
    of_family = {"widths": [64, 64], "body": "auto"}  # in the file they follow the sequence's family
    assert typed(NetworkSpec, {**read("network", name), **of_family}).widths == (64, 64)


def test_every_method_has_its_yaml_with_its_defaults():
    assert set(groups()["method"]) == set(METHODS)
    for name, method in METHODS.items():
        assert read("method", name)[name] == dataclasses.asdict(method()), name
        assert OmegaConf.create(method_files.yaml(name))[name] == dataclasses.asdict(method()), name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "x", "tasks": [{"env": "E-v0", "agent_steps": 1, "agent_step": 2}]}, "agent_steps"),
        ({"name": "x", "tasks": [{"env": "E-v0", "agent_steps": "many"}]}, "agent_steps"),
        ({"name": "x", "tasks": []}, "no tasks"),
        ({"tasks": [{"env": "E-v0", "agent_steps": 1}]}, "name"),
        ({"name": "x", "tasks": [{"env": "E-v0", "agent_steps": 1}], "cycles": 0}, "cycles"),
    ],
)
def test_typed_names_the_mistake(values, message):
    with pytest.raises(UserError, match=message):
        typed(SequenceConfig, values, "sequence")


def test_typed_builds_nested_dataclasses():
    config = typed(SequenceConfig, {"name": "x", "tasks": [{"env": "E-v0", "frames": 8}]})
    assert config.tasks == [TaskConfig(env="E-v0", frames=8)]
    assert typed(SwitchConfig, {}) == SwitchConfig()


def test_nearest_suggests_or_lists():
    assert nearest("adamoo", ["adam", "adamo"]) == "Did you mean 'adamo'?"
    assert nearest("zebra", ["adam", "sgd"]) == "Known: adam, sgd."
    assert nearest("zebra", []) == "There are none."
