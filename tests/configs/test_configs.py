"""The YAML files and the dataclasses say the same."""

import dataclasses

import pytest
from omegaconf import OmegaConf

from isorl.agents.options import AGENTS, OPTIMIZERS
from isorl.configs import UserError, nearest, typed
from isorl.configs.command_line import COMMANDS, FOLDER, composed, groups, register_resolvers, resolve
from isorl.configs.schema import RunConfig, SequenceConfig, SwitchConfig, TaskConfig
from isorl.experiments import method_files
from isorl.plasticity import NetworkSpec
from isorl.plasticity.adamo import DEFAULT_LAMBDA
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


def resolved(group, name):
    """The file as it is where no sequence tunes anything."""
    register_resolvers()
    file = OmegaConf.load(FOLDER / group / f"{name}.yaml")
    whole = OmegaConf.create(
        {"agent": {"name": ""}, "optimizer": {"name": ""}, "sequence": {}} | {group: file}
    )
    return OmegaConf.to_container(whole, resolve=True)[group]


@pytest.mark.parametrize(
    ("words", "rate", "strength"),
    [
        (["optimizer=adam"], 2e-3, None),
        (["optimizer=adamo"], 1e-3, 0.4),
        (["optimizer=adamo", "agent.learning_rate=5"], 5, 0.4),
        (["optimizer=adamo", "agent=dqn"], 7e-3, 0.1),
    ],
)
def test_a_family_says_what_suits_an_agent_and_before_that_what_suits_it_with_an_optimizer(
    words, rate, strength
):
    config = composed(["run_dir=x", "agent=ppo", "sequence=cartpole-smoke", *words])
    of_ppo = {"learning_rate": 2e-3, "adamo": {"learning_rate": 1e-3, "iso_lambda": 0.4}}
    config.sequence.tuning = {"ppo": of_ppo, "dqn": {"learning_rate": 7e-3}}
    made = resolve(config)
    assert made.agent["learning_rate"] == rate
    assert made.optimizer.get("iso_lambda") == strength


CHOSEN = [(group, name) for group in ("agent", "optimizer") for name in groups()[group]]


@pytest.mark.parametrize(("group", "name"), CHOSEN)
def test_yaml_has_every_option_with_its_default(group, name):
    options = {"agent": AGENTS, "optimizer": OPTIMIZERS}[group][name][1]
    expected = {
        key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(options()).items()
    }
    given = resolved(group, name)
    if name == "adamo":  # null, unless a half-life is given, is the number that the file names
        expected["iso_lambda"] = DEFAULT_LAMBDA
    assert given == expected


@pytest.mark.parametrize("name", groups()["network"])
def test_network_yaml_is_a_network(name):
    assert dataclasses.asdict(typed(NetworkSpec, resolved("network", name)))


def test_every_method_has_its_yaml_with_its_defaults():
    assert set(groups()["method"]) == set(METHODS)
    for name, method in METHODS.items():
        assert read("method", name)[name] == dataclasses.asdict(method()), name
        assert OmegaConf.create(method_files.yaml(name))[name] == dataclasses.asdict(method()), name


def test_heads_are_methods_with_their_defaults():
    assert groups()["head"] == ["l2_init", "none", "normalised", "reset"]
    for name in groups()["head"]:
        methods = {} if name == "none" else {f"head_{name}": dataclasses.asdict(METHODS[f"head_{name}"]())}
        assert resolve(composed([f"head={name}", "run_dir=x"])).method == methods
    both = resolve(composed(["head=reset", "method=[redo]", "method.head_reset.every=5", "run_dir=x"])).method
    assert (list(both), both["head_reset"]["every"]) == (["redo", "head_reset"], 5)


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
