"""Every sequence in configs/sequence is tested by being there."""

import gymnasium
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from isorl.configs import SequenceConfig, UserError, typed
from isorl.configs.command_line import FOLDER, groups, register_resolvers
from isorl.envs import Sequence, SwitchingVecEnv, data

NAMES = groups()["sequence"]
SMOKE = [name for name in NAMES if name.endswith("-smoke")]
EXTRAS = {
    "LunarLander": "Box2D",
    "Hopper": "mujoco",
    "SlipperyAnt": "mujoco",
    "MiniGrid": "minigrid",
    "MinAtar": "minatar",
    "dm_control": "dm_control",
    "MetaWorld": "metaworld",
}


def load(name, with_data=True):
    register_resolvers()
    with initialize_config_dir(version_base=None, config_dir=str(FOLDER)):
        composed = compose("config", overrides=[f"sequence={name}"])
    config = typed(SequenceConfig, OmegaConf.to_container(composed.sequence, resolve=True))
    for word, extra in EXTRAS.items():
        if any(word in task.env for task in config.tasks):
            pytest.importorskip(extra)
    for task in config.tasks if with_data else ():
        spec = gymnasium.registry.get(task.env)
        if spec is not None and "data" in spec.kwargs:
            _skip_without(spec.kwargs["data"])
    return config


def _skip_without(data_set):
    """Streams on files that are not on this machine are tested where they are; their parsing is tested everywhere."""
    try:
        data.load(data_set)
    except UserError as error:
        pytest.skip(str(error).partition(" Or put ")[0])


@pytest.mark.parametrize("name", NAMES)
def test_described(name):
    config = load(name, with_data=False)
    beginning = name.removesuffix("-smoke") + "_" if name.split("-")[0] in ("atari", "env") else name
    assert config.name.startswith(beginning) if beginning.endswith("_") else config.name == name
    assert config.source
    assert "ppo" in config.tuning
    sequence = Sequence.from_config(config, seed=0, n_envs=8)
    assert all(task.env in gymnasium.registry for task in sequence.tasks)
    text = (FOLDER / "sequence" / f"{name}.yaml").read_text()
    assert text.startswith("#")
    assert f"{name.split('-')[0]}-smoke" in NAMES


@pytest.mark.parametrize("name", SMOKE)
def test_runs_and_repeats_itself(name):
    """50 steps of two copies: twice the same; observations lie in the space; a switch happens where it is due."""
    config = load(name)
    sequence = Sequence.from_config(config, seed=1, n_envs=2)
    streams = []
    for _ in range(2):
        env = SwitchingVecEnv(sequence, 2, seed=1)
        env.action_space.seed(0)
        seen = [env.reset()]
        for _ in range(50):
            actions = np.stack([env.action_space.sample() for _ in range(2)])
            observations, rewards, dones, infos = env.step(actions)
            assert len(infos) == 2
            assert rewards.dtype == np.float32
            assert np.isfinite(rewards).all()
            seen += [observations, rewards, dones]
        assert env.observation_space.contains(observations[0])
        streams.append(seen)
        env.close()
    for one, other in zip(*streams, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SMOKE])
def test_full_length_can_be_built(name):
    """Every task of the full preset can be made, and they share their spaces."""
    config = load(name)
    if sum(task.count for task in config.tasks) > 100:
        pytest.skip("the same tasks as the shorter preset")
    env = SwitchingVecEnv(Sequence.from_config(config, seed=0), 1, seed=0)
    assert env.observation_space.contains(env.reset()[0])
    env.close()
