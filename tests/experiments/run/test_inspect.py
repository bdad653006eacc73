"""Reports on run folders, and on files of agents without running code from them: of the agent's networks or none."""

import json
import pickle
import sys
import zipfile

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from isorl.agents import ContinualDQN, ContinualPPO
from isorl.agents.policies import preprocess
from isorl.agents.sb3 import networks_of
from isorl.configs import UserError, imports
from isorl.experiments.run.agent_file import read_agent, read_normalizer
from isorl.experiments.run.inspect import WEIGHT_METRICS, inspect, main, probe_batch
from isorl.plasticity import NetworkSpec
from isorl.plasticity.diagnostics import report


class Own(BaseFeaturesExtractor):
    """A features extractor that is not stable-baselines3's."""

    def __init__(self, observation_space):
        super().__init__(observation_space, 8)
        self.layer = nn.Linear(observation_space.shape[0], 8)

    def forward(self, observations):
        return self.layer(observations)


class OwnPolicy(ActorCriticPolicy):
    """A policy that is not stable-baselines3's."""


def saved(tmp_path, algorithm, env_id="CartPole-v1", policy="MlpPolicy", **options):
    model = algorithm(policy, env_id, device="cpu", **options)
    model.save(tmp_path / "model.zip")
    return model, tmp_path / "model.zip"


def assert_live_figures(model, reports, env_id):
    """`reports` say what `report` says of the networks in the living agent."""
    space = model.observation_space
    _, observations = probe_batch(env_id, 16, seed=0)
    inputs = preprocess(model.policy, observations.astype(space.dtype))
    live = networks_of(model.policy)
    assert set(reports) == set(live)
    for name, network in live.items():
        expected = report(network, inputs)
        assert reports[name].layers == expected.layers
        assert reports[name].notes == expected.notes
        for metric, row in expected.values.items():
            for layer, value in row.items():
                torch.testing.assert_close(reports[name].values[metric][layer], value, equal_nan=True)


def spec(**options):
    return {"policy_kwargs": {"network": NetworkSpec(**options)}}


AGENTS = {
    "ppo": (PPO, "CartPole-v1", {}),
    "ppo on continuous actions": (PPO, "Pendulum-v1", {"use_sde": True}),
    "ppo apart": (PPO, "CartPole-v1", {"policy_kwargs": {"share_features_extractor": False}}),
    "ppo relu": (PPO, "CartPole-v1", {"policy_kwargs": {"activation_fn": nn.ReLU, "net_arch": [16, 8]}}),
    "a2c elu": (A2C, "CartPole-v1", {"policy_kwargs": {"activation_fn": nn.ELU}}),
    "a2c widths": (A2C, "CartPole-v1", {"policy_kwargs": {"net_arch": {"pi": [8], "vf": [16, 4]}}}),
    "dqn": (DQN, "CartPole-v1", {}),
    "dqn prelu": (DQN, "CartPole-v1", {"policy_kwargs": {"activation_fn": nn.PReLU}}),
    "sac": (SAC, "Pendulum-v1", {}),
    "sac silu": (SAC, "Pendulum-v1", {"policy_kwargs": {"activation_fn": nn.SiLU, "n_critics": 3}}),
    "td3": (TD3, "Pendulum-v1", {"policy_kwargs": {"net_arch": {"pi": [8, 8], "qf": [16]}}}),
    "ddpg tanh": (DDPG, "Pendulum-v1", {"policy_kwargs": {"activation_fn": nn.Tanh}}),
    "ours": (ContinualPPO, "CartPole-v1", {}),
}
OURS = {
    "plain": (ContinualPPO, {}),
    "hard": (ContinualPPO, spec(isometry="hard")),
    "hard fast": (ContinualPPO, {**spec(isometry="hard", activation="maxmin"), "exact": False}),
    "hard dqn": (ContinualDQN, spec(isometry="hard", activation="maxmin", widths=(16, 8))),
    "projected": (ContinualPPO, spec(isometry="projected", gain=0.5)),
    "spectral": (ContinualPPO, spec(spectral_norm=True, activation="crelu")),
    "spectral dqn": (ContinualDQN, spec(spectral_norm=True)),
    "layer norm": (ContinualDQN, spec(layer_norm=True, activation="deep_fourier")),
}


@pytest.mark.parametrize(("algorithm", "env_id", "options"), AGENTS.values(), ids=AGENTS)
def test_figures_are_those_of_the_living_agent(tmp_path, algorithm, env_id, options):
    model, path = saved(tmp_path, algorithm, env_id, **options)
    assert_live_figures(model, inspect(path, env_id, size=16), env_id)


@pytest.mark.parametrize(("algorithm", "options"), OURS.values(), ids=OURS)
def test_figures_are_those_of_our_living_agent(tmp_path, algorithm, options):
    model, path = saved(tmp_path, algorithm, policy="NetworkPolicy", **options)
    with torch.no_grad():  # away from the manifold, on which raw weights and orthogonal ones would agree
        for parameter in model.policy.parameters():
            parameter.mul_(1.5).add_(0.1 * torch.randn_like(parameter))
    model.save(path)
    reports = inspect(path, "CartPole-v1", size=16)
    assert_live_figures(model, reports, "CartPole-v1")
    network = next(iter(reports.values()))
    if "maxmin" in str(options) and "hard" in str(options):  # gain 1
        assert network.values["gram_deviation"][""] == pytest.approx(0, abs=1e-6)


class Drawn(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = None

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


class Screen(Drawn):
    observation_space = spaces.Box(0, 255, (84, 84, 4), "uint8")
    action_space = spaces.Discrete(4)


class Digits(Drawn):
    observation_space = spaces.MultiDiscrete([3, 5])
    action_space = spaces.Discrete(2)


@pytest.fixture(autouse=True, scope="module")
def own_envs():
    gymnasium.register("Screen-v0", Screen)
    gymnasium.register("Digits-v0", Digits)
    yield
    for name in ("Screen-v0", "Digits-v0"):
        del gymnasium.registry[name]


@pytest.mark.parametrize("shared", [True, False])
def test_images(tmp_path, shared):
    kwargs = {"share_features_extractor": shared, "features_extractor_kwargs": {"features_dim": 32}}
    model, path = saved(
        tmp_path, PPO, "Screen-v0", "CnnPolicy", n_steps=8, batch_size=8, policy_kwargs=kwargs
    )
    with torch.no_grad():
        for parameter in model.policy.vf_features_extractor.parameters():
            parameter.mul_(0.5)
    model.save(path)
    agent = read_agent(path)
    common, observations = probe_batch("Screen-v0", 2, seed=0)
    inputs = preprocess(model.policy, observations)
    for name, network in networks_of(agent.build(common.observation, common.action)).items():
        torch.testing.assert_close(network(inputs), networks_of(model.policy)[name](inputs), rtol=0, atol=0)
    assert set(inspect(path, "Screen-v0", size=2)) == {"actor", "critic"}
    with pytest.raises(UserError, match=r"observations of shape \(4, 84, 84\)"):
        inspect(path, "CartPole-v1", size=2)


def test_nature_cnn_by_name_and_older_files_that_name_a_shared_extractor_once(tmp_path):
    kwargs = {"features_extractor_class": NatureCNN}
    model, path = saved(tmp_path, A2C, "Screen-v0", policy_kwargs=kwargs)
    agent = read_agent(path)
    once = {k: v for k, v in agent.weights.items() if not k.startswith(("pi_features", "vf_features"))}
    assert len(once) < len(agent.weights)
    common, observations = probe_batch("Screen-v0", 2, seed=0)
    policy = type(agent)(path, agent.description, once).build(common.observation, common.action)
    inputs = preprocess(model.policy, observations)
    for name, network in networks_of(policy).items():
        torch.testing.assert_close(network(inputs), networks_of(model.policy)[name](inputs), rtol=0, atol=0)


def test_observations_that_are_digits(tmp_path):
    model, path = saved(tmp_path, PPO, "Digits-v0")
    reports = inspect(path, "Digits-v0", size=8)
    _, one_hot = probe_batch("Digits-v0", 8, seed=0)
    x = torch.as_tensor(one_hot, dtype=torch.float32)
    assert x.shape[1] == 8
    assert x.sum(1).eq(2).all()
    expected = report(networks_of(model.policy)["actor"], x).values["feature_norm"][""]
    assert reports["actor"].values["feature_norm"][""] == pytest.approx(expected)


# -- normalisation -----------------------------------------------------------------------------------------------------
def normalized_agent(tmp_path, **options):
    env = VecNormalize(make_vec_env("Pendulum-v1", 2, seed=3), clip_obs=1.5, **options)
    model = PPO("MlpPolicy", env, n_steps=32, batch_size=64, n_epochs=1, seed=3, device="cpu").learn(128)
    model.save(tmp_path / "model.zip")
    env.save(tmp_path / "normalize.pkl")
    return model, env


@pytest.mark.parametrize("norm_obs", [True, False])
def test_statistics_of_vec_normalize(tmp_path, norm_obs):
    model, env = normalized_agent(tmp_path, norm_obs=norm_obs)
    path, statistics = tmp_path / "model.zip", tmp_path / "normalize.pkl"
    with pytest.raises(UserError, match="--vec-normalize"):
        inspect(path, "Pendulum-v1", size=16)
    with pytest.raises(UserError, match="--vec-normalize"):
        inspect(path, "Pendulum-v1", trust="PPO", size=16)
    _, observations = probe_batch("Pendulum-v1", 16, seed=0)
    inputs = preprocess(model.policy, env.normalize_obs(observations))
    expected = report(networks_of(model.policy)["actor"], inputs).values["feature_norm"][""]
    for trust in (None, "PPO"):
        reports = inspect(path, "Pendulum-v1", trust=trust, size=16, normalizer=statistics)
        assert reports["actor"].values["feature_norm"][""] == pytest.approx(expected)


class Dangerous:
    def __reduce__(self):
        return (open, ("executed", "w"))


def test_statistics_run_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, env = normalized_agent(tmp_path)
    env.metadata = Dangerous()
    env.save("normalize.pkl")
    normalizer = read_normalizer(tmp_path / "normalize.pkl", (3,))
    assert not (tmp_path / "executed").exists()
    np.testing.assert_array_equal(normalizer.obs_rms.mean, env.obs_rms.mean)
    np.testing.assert_array_equal(normalizer.obs_rms.var, env.obs_rms.var)


def test_statistics_that_do_not_fit(tmp_path):
    normalized_agent(tmp_path)
    with pytest.raises(UserError, match=r"\(3,\), and the environment gives \(4,\)"):
        read_normalizer(tmp_path / "normalize.pkl", (4,))
    for content in (b"text", pickle.dumps({"obs_rms": 3}), pickle.dumps(Dangerous())):
        (tmp_path / "other.pkl").write_bytes(content)
        with pytest.raises(UserError, match=r"other\.pkl"):
            read_normalizer(tmp_path / "other.pkl", (3,))
    with pytest.raises(UserError, match="no file"):
        read_normalizer(tmp_path / "missing.pkl", (3,))
    assert not (tmp_path / "executed").exists()


# -- what a file does not say ------------------------------------------------------------------------------------------
def own_activation():
    return nn.ReLU()


def test_an_unknown_activation_is_asked_for_or_its_figures_are_absent(tmp_path):
    model, path = saved(tmp_path, PPO, policy_kwargs={"activation_fn": own_activation})
    reports = inspect(path, "CartPole-v1", size=16)
    live = report(networks_of(model.policy)["actor"], torch.randn(16, 4)).values
    assert set(reports["actor"].values) == set(WEIGHT_METRICS)
    for metric in WEIGHT_METRICS:
        assert reports["actor"].values[metric] == pytest.approx(live[metric])
    assert "own_activation" in reports["actor"].notes[0]
    assert "--activation" in reports["actor"].notes[0]
    named = inspect(path, "CartPole-v1", activation="relu", size=16)
    for found in named.values():
        found.notes.clear()
    assert_live_figures(model, named, "CartPole-v1")


def test_an_activation_of_a_named_module_is_known(tmp_path, monkeypatch):
    """A zip calls it `<class 'my_activation.Leaky'>`; with imports=[./my_activation.py] it is that class."""
    text = "from torch import nn\nclass Leaky(nn.LeakyReLU):\n    def __init__(self):\n        super().__init__(0.3)\n"
    (tmp_path / "my_activation.py").write_text(text)
    monkeypatch.setattr(imports, "_named", {})
    monkeypatch.setattr(imports, "_current_folder", [])
    imports.take([str(tmp_path / "my_activation.py")])
    try:
        own = sys.modules["my_activation"].Leaky
        model, path = saved(tmp_path, PPO, policy_kwargs={"activation_fn": own})
        assert_live_figures(model, inspect(path, "CartPole-v1", size=16), "CartPole-v1")
        imports._named.clear()
        found = inspect(path, "CartPole-v1", size=16)["actor"]
        assert set(found.values) == set(WEIGHT_METRICS)
        assert "imports=[MODULE]" in found.notes[0]
    finally:
        del sys.modules["my_activation"]


def test_a_known_activation_is_not_overruled(tmp_path):
    _, path = saved(tmp_path, PPO)
    with pytest.raises(UserError, match="leave --activation out"):
        inspect(path, "CartPole-v1", activation="relu")


def rewritten(path, change):
    """Rewrites a zip with `change` applied to its JSON part and its weights."""
    agent = read_agent(path)
    description, weights = dict(agent.description), dict(agent.weights)
    change(description, weights)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", json.dumps(description))
        with archive.open("policy.pth", "w") as file:
            torch.save(weights, file)


def _set_kwargs(**values):
    return lambda description, weights: description.update(policy_kwargs=values)


CHANGES = {
    "unknown weight": (lambda d, w: w.update({"gru.weight": torch.ones(2, 2)}), r"gru\.weight is unknown"),
    "missing weight": (lambda d, w: w.pop("value_net.bias"), r"value_net\.bias is missing"),
    "other shape": (lambda d, w: w.update({"value_net.bias": torch.ones(2)}), r"value_net\.bias is \(2,\)"),
    "unknown argument": (_set_kwargs(dueling=True), "dueling"),
    "pickled argument": (_set_kwargs(net_arch="<Own at 0x1>"), "'net_arch'"),
    "other network": (_set_kwargs(network="__import__('os').getcwd()"), "network"),
    "other class": (lambda d, w: d["policy_class"].update(__module__="somebody.else"), "somebody.else"),
    "no class": (lambda d, w: d.pop("policy_class"), "policy"),
}


@pytest.mark.parametrize(("change", "named"), CHANGES.values(), ids=CHANGES)
def test_what_a_zip_does_not_describe_is_named(tmp_path, change, named):
    _, path = saved(tmp_path, PPO)
    rewritten(path, change)
    with pytest.raises(UserError, match=named):
        inspect(path, "CartPole-v1", size=8)


class Nested(gymnasium.Env):
    observation_space = spaces.Dict({"x": spaces.Box(-1, 1, (4,))})
    action_space = spaces.Discrete(2)


def test_agents_of_another_form_are_refused_by_name(tmp_path):
    def refused(match, *words, **options):
        _, path = saved(tmp_path, *words, **options)
        with pytest.raises(UserError, match=match):
            inspect(path, "CartPole-v1", size=8)

    refused("Dict", PPO, DummyVecEnv([Nested]), "MultiInputPolicy")
    refused("OwnPolicy|test_inspect", PPO, policy=OwnPolicy)
    refused(r"'features_extractor_class'.*Own", PPO, policy_kwargs={"features_extractor_class": Own})


def test_lstm_agents_of_sb3_contrib_are_refused(tmp_path):
    contrib = pytest.importorskip("sb3_contrib")
    _, path = saved(tmp_path, contrib.RecurrentPPO, policy="MlpLstmPolicy")
    with pytest.raises(UserError, match="RecurrentActorCriticPolicy"):
        inspect(path, "CartPole-v1", size=8)


# -- the command -------------------------------------------------------------------------------------------------------
def test_command_prints_and_saves(tmp_path, capsys):
    PPO("MlpPolicy", "CartPole-v1", device="cpu").save(tmp_path / "model.zip")
    main([str(tmp_path / "model.zip"), "--env", "CartPole-v1", "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "== critic ==" in printed
    assert "dormant_units" in printed
    numbers = json.loads((tmp_path / "out" / "report.json").read_text())
    assert numbers["actor"]["layer_jacobian_max"]["network"] > 0
    assert (tmp_path / "out" / "spectra.png").stat().st_size > 5_000


def test_command_saves_the_figures_of_weights_alone(tmp_path):
    _, path = saved(tmp_path, PPO, policy_kwargs={"activation_fn": own_activation})
    main([str(path), "--env", "CartPole-v1", "--out", str(tmp_path / "out")])
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"report.txt", "report.json"}


def test_trusted_zips(tmp_path):
    kwargs = {"features_extractor_class": Own, "activation_fn": own_activation}
    model, path = saved(tmp_path, SAC, "Pendulum-v1", policy_kwargs=kwargs)
    assert_live_figures(model, inspect(path, "Pendulum-v1", trust="SAC", size=16), "Pendulum-v1")
    with pytest.raises(UserError, match="observations of shape"):
        inspect(path, "CartPole-v1", trust="SAC")


REFUSED = {
    "missing": [],
    "missing without --env": [],
    "text": [],
    "pickle": [],
    "other shapes": [],
    "unknown algorithm": ["--trust", "PPOO"],
    "another algorithm": ["--trust", "SAC"],
    "trusted text": ["--trust", "PPO"],
    "unknown activation": ["--activation", "rleu"],
    "unknown environment": ["--env", "CartPol-v1"],
    "no observations": ["--observations", "0"],
    "unwritable": ["--out", "model.zip/out"],
    "cut zip": [],
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refusals(tmp_path, capsys, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.zip"
    if "text" in kind:
        path.write_text("not a model")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Dangerous()))
    elif kind == "other shapes":
        torch.save(nn.Sequential(nn.Linear(9, 2)).state_dict(), path)
    elif "missing" not in kind:
        saved(tmp_path, PPO)
    if kind == "cut zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("policy.pth", b"")
    env = [] if "without" in kind else ["--env", "CartPole-v1"]
    with pytest.raises(SystemExit) as stopped:
        main([str(path), *env, *REFUSED[kind]])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("isorl inspect:")
    assert "Traceback" not in said
    assert all(len(line) <= 80 for line in said.splitlines() if str(tmp_path) not in line)
    assert not (tmp_path / "executed").exists()


def test_a_file_needs_an_environment(tmp_path, capsys):
    saved(tmp_path, PPO)
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "model.zip")])
    assert stopped.value.code == 2
    assert "--env is needed" in capsys.readouterr().err
