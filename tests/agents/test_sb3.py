"""The callback watches any SB3 algorithm, changes nothing, loses nothing and refuses what it cannot measure."""

import json
from contextlib import contextmanager

import ale_py
import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.logger import configure
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from isorl.agents import ContinualPPO, PlasticityCallback
from isorl.agents.policies import preprocess
from isorl.agents.sb3 import networks_of
from isorl.plasticity import NetworkSpec
from isorl.plasticity.diagnostics import diagnose, snapshot

ALGORITHMS = {
    "ppo": (PPO, "CartPole-v1", {"n_steps": 64}, {"actor", "critic"}),
    "a2c": (A2C, "Pendulum-v1", {}, {"actor", "critic"}),
    "dqn": (DQN, "CartPole-v1", {"learning_starts": 50}, {"q"}),
    "sac": (SAC, "Pendulum-v1", {"learning_starts": 150}, {"actor", "critic0", "critic1"}),
    "td3": (TD3, "Pendulum-v1", {"learning_starts": 150}, {"actor", "critic0", "critic1"}),
    "ddpg": (DDPG, "Pendulum-v1", {"learning_starts": 150}, {"actor", "critic0"}),
    "ours": (ContinualPPO, "CartPole-v1", {"n_steps": 64}, {"actor", "critic"}),
}
FEW = ["weight_distance", "dormant_units", "layer_jacobian_spectrum"]


class Mixed(BaseFeaturesExtractor):
    """A features extractor with parameters, for vectors."""

    def __init__(self, observation_space, features_dim=8):
        super().__init__(observation_space, features_dim)
        self.layers = nn.Sequential(nn.Linear(observation_space.shape[0], features_dim), nn.Tanh())

    def forward(self, observations):
        return self.layers(observations)


class DictEnv(gymnasium.Env):
    observation_space = spaces.Dict({"x": spaces.Box(-1, 1, (2,))})
    action_space = spaces.Discrete(2)

    def reset(self, **_):
        return {"x": np.zeros(2, np.float32)}, {}


class Corridor(gymnasium.Env):
    """Five different observations."""

    observation_space = spaces.Discrete(5)
    action_space = spaces.Discrete(2)
    at = 0

    def reset(self, **_):
        self.at = 0
        return 0, {}

    def step(self, action):
        self.at = (self.at + 1) % 5
        return self.at, 0.0, False, False, {}


@contextmanager
def logging(model, folder, formats=("tensorboard",)):
    """Lets `model` log into `folder` inside."""
    logger = configure(str(folder), list(formats))
    model.set_logger(logger)
    try:
        yield
    finally:
        logger.close()


@pytest.mark.parametrize(("algorithm", "env_id", "options", "networks"), ALGORITHMS.values(), ids=ALGORITHMS)
def test_callback_on_any_algorithm(tmp_path, algorithm, env_id, options, networks):
    def trained(callback):
        model = algorithm("MlpPolicy", gymnasium.make(env_id), seed=0, device="cpu", **options)
        with logging(model, tmp_path):
            return model.learn(200, callback=callback, log_interval=1)

    callback = PlasticityCallback(every=50)
    watched, plain = trained(callback), trained(None)
    for a, b in zip(watched.policy.parameters(), plain.policy.parameters(), strict=True):
        assert torch.equal(a, b)

    values = callback.measure()
    assert {key.split("/")[2] for key in values} == networks
    for network in networks:
        assert 0 <= values[f"plasticity/dormant_units/{network}"] <= 1
        assert values[f"plasticity/layer_jacobian_max/{network}"] > 0
        assert np.isfinite(values[f"plasticity/ntk_effective_rank/{network}"])


def outputs_of(policy, x):
    """What the policy itself computes on observations `x`, by the names of its networks."""
    if isinstance(policy, ActorCriticPolicy):
        spread = policy.get_distribution(x).distribution
        actor = spread.mean if hasattr(spread, "loc") else spread.logits
        return {"actor": actor, "critic": policy.predict_values(x)}
    if hasattr(policy, "q_net"):
        return {"q": policy.q_net(x)}
    actions = torch.as_tensor(np.random.default_rng(0).uniform(-1, 1, (len(x), 1)), dtype=torch.float32)
    actor = policy.actor
    mean = actor.get_action_dist_params(x)[0] if hasattr(actor, "latent_pi") else actor(x)
    return {"actor": mean} | {f"critic{i}": q for i, q in enumerate(policy.critic(x, actions))}


KWARGS = [
    {},
    {"activation_fn": nn.ELU, "net_arch": [16, 8]},
    {"features_extractor_class": Mixed},
    {"features_extractor_class": Mixed, "share_features_extractor": False},
    {"features_extractor_class": Mixed, "share_features_extractor": True},
]


@pytest.mark.parametrize("kwargs", KWARGS, ids=["default", "ELU", "extractor", "apart", "shared"])
@pytest.mark.parametrize(("algorithm", "env_id"), [row[:2] for row in ALGORITHMS.values()], ids=ALGORITHMS)
def test_networks_compute_what_the_policy_computes(algorithm, env_id, kwargs):
    if algorithm is DQN:
        kwargs = {key: value for key, value in kwargs.items() if key != "share_features_extractor"}
    policy = algorithm("MlpPolicy", env_id, policy_kwargs=dict(kwargs), device="cpu").policy
    x = torch.randn(7, *policy.observation_space.shape)
    expected = outputs_of(policy, x)
    found = networks_of(policy)
    assert set(found) == set(expected)
    for name, network in found.items():
        out = network(x)
        if name == "actor" and isinstance(policy.action_space, spaces.Discrete):
            out = out.log_softmax(1)
        torch.testing.assert_close(out, expected[name])


@pytest.mark.parametrize("shared", [True, False])
def test_a_critic_has_the_parameters_that_it_trains(shared):
    kwargs = {"features_extractor_class": Mixed, "share_features_extractor": shared}
    policy = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs=kwargs, device="cpu").policy
    found = networks_of(policy)
    trained = {id(p) for group in policy.critic.optimizer.param_groups for p in group["params"]}
    ours = {id(p) for name in ("critic0", "critic1") for p in found[name].parameters()}
    assert ours == trained
    values = diagnose(found, torch.randn(16, 3), ["layer_jacobian_max", "ntk_condition"])
    assert ("plasticity/layer_jacobian_max/critic0/linear4" in values) == (not shared)


# -- nothing is lost ---------------------------------------------------------------------------------------------------
def scalars(folder, tag):
    return [(event.step, event.value) for event in EventAccumulator(str(folder)).Reload().Scalars(tag)]


@pytest.mark.parametrize(
    ("algorithm", "options", "log_interval"),
    [(PPO, {"n_steps": 512}, 1), (DQN, {"learning_starts": 100, "train_freq": 1}, 10_000)],
    ids=["long rollout", "off-policy"],
)
def test_every_measurement_is_written_where_it_was_made(tmp_path, algorithm, options, log_interval):
    def trained(folder, callback):
        model = algorithm("MlpPolicy", "CartPole-v1", seed=0, device="cpu", **options)
        with logging(model, tmp_path / folder, ["tensorboard", "csv", "json"]):
            model.learn(512, callback=callback, log_interval=log_interval)
        return EventAccumulator(str(tmp_path / folder)).Reload()

    made = []

    class Spy(PlasticityCallback):
        def measure(self):
            values = super().measure()
            made.append((self.step, values))
            return values

    watched, plain = trained("watched", Spy(every=100, metrics=FEW)), trained("plain", None)
    assert [step for step, _ in made] == [63, 100, 200, 300, 400, 500]
    key = "plasticity/weight_distance/" + ("q" if algorithm is DQN else "actor")
    expected = [(step, pytest.approx(values[key])) for step, values in made]
    assert scalars(tmp_path / "watched", key) == expected
    rows = [json.loads(line) for line in (tmp_path / "watched" / "progress.json").read_text().splitlines()]
    rows = [row for row in rows if key in row]
    assert [(row["plasticity/step"], row[key]) for row in rows] == expected
    spectrum = key.replace("weight_distance", "layer_jacobian_spectrum")
    assert rows[-1][spectrum] == pytest.approx(made[-1][1][spectrum].tolist())
    table = np.genfromtxt(tmp_path / "watched" / "progress.csv", delimiter=",", names=True, deletechars="")
    steps = np.atleast_1d(table["plasticity/step"])
    assert steps[~np.isnan(steps)].tolist() == [step for step, _ in made]
    assert any(tag.startswith("plasticity/layer_jacobian_spectrum/") for tag in watched.Tags()["histograms"])
    # SB3's own rows are what they were
    own = [tag for tag in plain.Tags()["scalars"] if tag != "time/fps"]
    assert [tag for tag in watched.Tags()["scalars"] if "plasticity" not in tag and tag != "time/fps"] == own
    for tag in own:
        if "time" not in tag:
            assert [(e.step, e.value) for e in watched.Scalars(tag)] == [
                (e.step, e.value) for e in plain.Scalars(tag)
            ]


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_the_continual_loop(tmp_path, algorithm, reset):
    options = (
        {"n_steps": 100, "batch_size": 50} if algorithm is PPO else {"learning_starts": 50, "batch_size": 8}
    )
    small = {"net_arch": [16]}
    model = algorithm("MlpPolicy", "Pendulum-v1", seed=0, device="cpu", policy_kwargs=small, **options)
    start = snapshot(networks_of(model.policy))
    callback = PlasticityCallback(every=100, metrics=FEW)
    probes = []
    with logging(model, tmp_path):
        for _ in range(3):
            model.set_env(gymnasium.make("Pendulum-v1"))
            model.learn(200, callback=callback, reset_num_timesteps=reset)
            probes.append(callback.probe)
    assert callback.step == 600
    assert all(probe is probes[0] for probe in probes)
    found = scalars(tmp_path, "plasticity/weight_distance/actor")
    assert [step for step, _ in found] == [63, 100, 200, 300, 400, 500, 600]
    values = diagnose(networks_of(model.policy), preprocess(model.policy, probes[0]), FEW, start)
    key = "plasticity/weight_distance/actor"
    assert callback.measure()[key] == pytest.approx(values[key])
    assert values[key] > 0


def test_steps_never_go_back(tmp_path):
    model = DQN("MlpPolicy", "CartPole-v1", device="cpu", learning_starts=10_000)
    callback = PlasticityCallback(every=50, metrics=FEW, probe_size=8)
    seen = []
    with logging(model, tmp_path):
        for reset, watched in [(True, True), (True, True), (False, False), (False, True), (True, True)]:
            model.learn(100, callback=callback if watched else None, reset_num_timesteps=reset)
            seen.append(callback.step)
    # without the callback, the agent's counter catches up from 100 to 200: not counted twice
    assert seen == [100, 200, 200, 300, 400]
    steps = [step for step, _ in scalars(tmp_path, "plasticity/weight_distance/q")]
    assert steps == sorted(set(steps))


@pytest.mark.parametrize("steps", [32, 500])
def test_few_observations_give_a_small_probe_and_one_warning(tmp_path, steps):
    model = PPO("MlpPolicy", Corridor(), n_steps=16, batch_size=16, n_epochs=1, device="cpu")
    callback = PlasticityCallback(every=100, metrics=FEW, probe_size=6)
    with logging(model, tmp_path):
        with pytest.warns(RuntimeWarning, match="5 different observations of 6") as seen:
            model.learn(steps, callback=callback)
        assert len(seen) == 1
        model.learn(steps, callback=callback)
    assert len(callback.probe) == 5
    assert len(scalars(tmp_path, "plasticity/dormant_units/actor")) >= 2


def test_without_an_output_there_is_a_file_and_one_warning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plasticity.jsonl").write_text("of another run\n")
    model = A2C("MlpPolicy", "CartPole-v1", device="cpu", verbose=0)
    callback = PlasticityCallback(every=100, metrics=FEW)
    with pytest.warns(RuntimeWarning, match=r"plasticity-2\.jsonl") as seen:
        model.learn(200, callback=callback)
    assert len(seen) == 1
    model.learn(200, callback=callback)
    rows = [json.loads(line) for line in (tmp_path / "plasticity-2.jsonl").read_text().splitlines()]
    assert [row["plasticity/step"] for row in rows] == [63, 100, 200, 300, 400]
    assert isinstance(rows[0]["plasticity/layer_jacobian_spectrum/actor"], list)
    assert (tmp_path / "plasticity.jsonl").read_text() == "of another run\n"


def test_a_hard_network_is_measured_by_its_effective_weights(tmp_path):
    kwargs = {"network": NetworkSpec(activation="maxmin", isometry="hard")}
    model = ContinualPPO("NetworkPolicy", "CartPole-v1", n_steps=64, policy_kwargs=kwargs, device="cpu")
    callback = PlasticityCallback(every=64, metrics=["gram_deviation"])
    with logging(model, tmp_path):
        model.learn(128, callback=callback)
    assert callback.measure()["plasticity/gram_deviation/actor"] == pytest.approx(0, abs=1e-6)


def test_atari_policy(tmp_path):
    gymnasium.register_envs(ale_py)
    env = gymnasium.wrappers.FrameStackObservation(
        gymnasium.wrappers.AtariPreprocessing(gymnasium.make("ALE/Breakout-v5", frameskip=1)), 4
    )
    callback = PlasticityCallback(every=64, metrics=["dormant_units", "layer_jacobian_max"], probe_size=16)
    model = PPO("CnnPolicy", env, n_steps=70, batch_size=70, n_epochs=1, device="cpu")
    with logging(model, tmp_path):
        model.learn(140, callback=callback)
    values = callback.measure()
    assert "plasticity/layer_jacobian_max/actor" in values


# -- refused before training -------------------------------------------------------------------------------------------
class Recurrent(ActorCriticPolicy):
    """Stands in for sb3-contrib's RecurrentActorCriticPolicy, which is an ActorCriticPolicy with LSTMs beside it."""

    def _build_mlp_extractor(self):
        super()._build_mlp_extractor()
        self.lstm_actor = nn.LSTM(self.features_dim, self.features_dim)


class Auxiliary(ActorCriticPolicy):
    def _build_mlp_extractor(self):
        super()._build_mlp_extractor()
        self.forward_model = nn.Linear(4, 4)


def refused(model, callback=None, match=""):
    before = [p.detach().clone() for p in model.policy.parameters()]
    with pytest.raises(ValueError, match=match):
        model.learn(200, callback=callback or PlasticityCallback())
    assert all(torch.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))
    assert model.num_timesteps == 0


def test_policies_that_cannot_be_measured_are_refused_by_name():
    refused(PPO("MultiInputPolicy", DictEnv(), device="cpu"), match="MultiInputActorCriticPolicy.*Dict")
    refused(SAC("MultiInputPolicy", _ContinuousDict(), device="cpu"), match="Dict")
    refused(PPO(Recurrent, "CartPole-v1", device="cpu"), match="Recurrent is recurrent .lstm_actor.")
    refused(PPO(Auxiliary, "CartPole-v1", device="cpu"), match=r"Auxiliary .*forward_model\.weight")


class _ContinuousDict(DictEnv):
    action_space = spaces.Box(-1, 1, (1,))


def test_lstm_policies_of_sb3_contrib_are_refused():
    contrib = pytest.importorskip("sb3_contrib")
    refused(
        contrib.RecurrentPPO("MlpLstmPolicy", "CartPole-v1", device="cpu"), match="recurrent .*lstm_actor"
    )


def test_networks_can_be_named_for_an_unknown_policy(tmp_path):
    model = PPO(Auxiliary, "CartPole-v1", n_steps=64, device="cpu")
    callback = PlasticityCallback(
        networks=lambda policy: {"actor": nn.Sequential(policy.mlp_extractor.policy_net, policy.action_net)}
    )
    with logging(model, tmp_path):
        model.learn(128, callback=callback)
    assert {key.split("/")[2] for key in callback.measure()} == {"actor"}


def test_mistakes_are_answered(tmp_path):
    with pytest.raises(ValueError, match="at least 1"):
        PlasticityCallback(every=0)
    with pytest.raises(ValueError, match="at least 1"):
        PlasticityCallback(probe_size=0)
    with pytest.raises(ValueError, match="no probe"):
        PlasticityCallback().measure()
    with pytest.raises(ValueError, match="learn"):
        PlasticityCallback(probe=np.zeros((4, 4))).measure()
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=64, device="cpu")
    refused(model, PlasticityCallback(probe=np.zeros((4, 3), np.float32)), match="shape")
    refused(model, PlasticityCallback(metrics=["dormant_unit"]), match="dormant_units")


def test_one_callback_watches_one_agent(tmp_path):
    callback = PlasticityCallback(every=64, metrics=FEW)
    first, second = (PPO("MlpPolicy", "CartPole-v1", n_steps=64, device="cpu") for _ in range(2))
    with logging(first, tmp_path):
        first.learn(64, callback=callback)
        refused(second, callback, match="another agent")
        first.save(tmp_path / "model.zip")
        first.set_parameters(tmp_path / "model.zip")
        first.learn(64, callback=callback)
    assert callback.step == 128


def test_churn_is_change_since_the_measurement_before(tmp_path):
    key = "plasticity/churn_of_outputs/critic"
    callback = PlasticityCallback(every=64, probe_size=8, metrics=["churn_of_actions", "churn_of_outputs"])
    agent = PPO("MlpPolicy", "CartPole-v1", n_steps=64, device="cpu")
    with logging(agent, tmp_path):
        agent.learn(128, callback=callback)
        assert callback.measure()[key] > 0  # an update came after the last measurement
        callback._record()
        assert callback.measure()[key] == 0
        with torch.no_grad():
            agent.policy.value_net.bias.add_(3.0)
        assert callback.measure()[key] == pytest.approx(3, rel=1e-4)


def test_an_output_for_humans_keeps_nothing(tmp_path):
    model, callback = PPO("MlpPolicy", "CartPole-v1", n_steps=64), PlasticityCallback(every=64)
    callback.init_callback(model)
    for outputs, kept in (
        (["stdout"], []),
        (["stdout", "csv", "json"], ["CSVOutputFormat", "JSONOutputFormat"]),
    ):
        model.set_logger(configure(str(tmp_path), outputs))
        assert [type(output).__name__ for output in callback._outputs()] == kept
        model.logger.close()


def test_own_files_are_there_before_there_is_anything_to_lose(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=64)
    model.set_logger(configure(None, []))
    for number in range(2):
        callback = PlasticityCallback(every=64)
        callback.init_callback(model)
        with pytest.warns(RuntimeWarning, match="logs to no file"):
            callback._check_outputs()
        assert len(list(tmp_path.iterdir())) == number + 1
