"""Reports on run folders, and on files of stable-baselines3 without running code from them."""

import json
import pickle

import gymnasium
import pytest
import torch
from stable_baselines3 import DQN, PPO, SAC
from torch import nn

from isorl.agents.sb3 import networks_of
from isorl.configs import UserError
from isorl.experiments.run.inspect import inspect, main, read_weights, rebuild


@pytest.mark.parametrize(("algorithm", "names"), [(PPO, {"actor", "critic"}), (DQN, {"q"})])
def test_rebuilt_networks_compute_the_same(tmp_path, algorithm, names):
    model = algorithm("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [32, 16]}, device="cpu")
    model.save(tmp_path / "model.zip")
    rebuilt = rebuild(read_weights(tmp_path / "model.zip"))
    assert set(rebuilt) == names
    x = torch.randn(7, 4)
    for name, network in networks_of(model.policy).items():
        torch.testing.assert_close(rebuilt[name](x), network(x), rtol=0, atol=0)


def test_rebuilt_nature_cnn_computes_the_same(tmp_path):
    class Screen(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(0, 255, (4, 84, 84), "uint8")
        action_space = gymnasium.spaces.Discrete(4)

    model = PPO("CnnPolicy", Screen(), n_steps=8, batch_size=8, device="cpu")
    model.save(tmp_path / "model.zip")
    x = torch.rand(2, 4, 84, 84)
    for name, network in networks_of(model.policy).items():
        rebuilt = rebuild(read_weights(tmp_path / "model.zip"))[name]
        torch.testing.assert_close(rebuilt(x), network(x), rtol=0, atol=0)


def test_command_prints_and_saves(tmp_path, capsys):
    PPO("MlpPolicy", "CartPole-v1", device="cpu").save(tmp_path / "model.zip")
    main([str(tmp_path / "model.zip"), "--env", "CartPole-v1", "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "== critic ==" in printed
    assert "dormant_units" in printed
    numbers = json.loads((tmp_path / "out" / "report.json").read_text())
    assert numbers["actor"]["layer_jacobian_max"]["network"] > 0
    assert (tmp_path / "out" / "spectra.png").stat().st_size > 5_000


def test_state_dict_of_a_plain_network(tmp_path):
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    reports = inspect(tmp_path / "weights.pt", "CartPole-v1", None, None, size=16)
    largest = torch.linalg.svdvals(network[0].weight.detach())[0]
    assert reports["network"].values["layer_jacobian_max"]["linear1"] <= float(largest) * 1.001


def test_trusted_zip_of_another_algorithm(tmp_path):
    SAC("MlpPolicy", "Pendulum-v1", device="cpu").save(tmp_path / "model.zip")
    assert "actor" in inspect(tmp_path / "model.zip", "Pendulum-v1", None, "SAC", size=16)


class Dangerous:
    def __reduce__(self):
        return (open, ("executed", "w"))


@pytest.mark.parametrize("kind", ["missing", "text", "pickle", "other shapes", "unknown algorithm"])
def test_refusals(tmp_path, capsys, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path, words = tmp_path / "model.zip", []
    if kind == "text":
        path.write_text("not a model")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Dangerous()))
    elif kind == "other shapes":
        torch.save(nn.Linear(9, 2).state_dict(), path)
    elif kind == "unknown algorithm":
        path.write_text("x")
        words = ["--trust", "PPOO"]
    with pytest.raises(SystemExit) as stopped:
        main([str(path), "--env", "CartPole-v1", *words])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("inspect: ")
    assert not (tmp_path / "executed").exists()


def test_weights_are_a_mapping_of_tensors(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="no state dict"):
        read_weights(tmp_path / "list.pt")


@pytest.mark.parametrize(
    "overrides",
    [
        ("agent=ppo", "sequence=nine_rooms-smoke", "normalize.observations=true"),
        ("agent=dqn", "sequence=nine_rooms-smoke", "network=relu", "optimizer=adam"),
    ],
    ids=["ppo", "dqn"],
)
def test_a_run_folder_says_everything_itself(run, tmp_path, capsys, overrides):
    """The report on the last checkpoint repeats what the run itself measured at its end."""
    summary, folder = run(*overrides)
    main([str(folder), "--out", str(tmp_path / "out")])
    assert "dormant_units" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    measured = summary["diagnostics"][-1]
    network = "actor" if "actor" in found else "q"
    for metric in ("dormant_units", "layer_jacobian_max", "ntk_condition"):
        expected = pytest.approx(measured[f"plasticity/{metric}/{network}"], rel=1e-3)
        assert found[network][metric]["network"] == expected


@pytest.mark.parametrize("words", [["--env", "CartPole-v1"], []], ids=["a folder with --env", "no run"])
def test_refusals_of_folders(tmp_path, capsys, words):
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path), *words])
    assert stopped.value.code == 2
    assert "run" in capsys.readouterr().err


def test_a_file_needs_an_environment(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path / "model.zip")])
    assert "--env is needed" in capsys.readouterr().err
