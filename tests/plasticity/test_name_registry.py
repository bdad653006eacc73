import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import isorl
from isorl.plasticity.registry import Registry

METRIC = """
import torch
from isorl.plasticity.diagnostics.metric import metric

@metric("outputs", formula="C", range="-", healthy="-", cost="-", paper="-")
def outputs(probe):
    return {"": torch.tensor(float(probe.record.output.shape[1]))}
"""
ACTIVATION = """
from torch import nn
from isorl.plasticity.networks.activations import ACTIVATIONS, Activation

ACTIVATIONS.register("mish")(Activation(lambda dim: nn.Mish()))
"""
USE = """
import torch
from isorl.plasticity import NetworkSpec, build_mlp, diagnose
network = build_mlp(3, NetworkSpec((4, 2), "mish"))
print(diagnose({"net": network}, torch.randn(5, 3), ["outputs", "layer_jacobian_max"]))
"""


def test_registration_and_lookup():
    registry = Registry("fruit")
    registry.register("apple")(1)

    @registry.register("pear")
    def pear():
        return 2

    assert registry["apple"] == 1
    assert registry["pear"] is pear
    assert list(registry) == ["apple", "pear"]
    assert "plum" not in registry
    assert registry.get("plum") is None


@pytest.mark.parametrize("error", [KeyError, ValueError])
def test_a_typo_is_answered_with_the_right_name(error):
    registry = Registry("metric")
    registry.register("dormant_units")(1)
    with pytest.raises(error) as caught:
        registry["dormat_units"]
    assert str(caught.value) == "unknown metric 'dormat_units'. Did you mean 'dormant_units'?"


def test_a_list_of_names_is_short():
    registry = Registry("fruit")
    for name in ("apple", "pear", "plum"):
        registry.register(name)(1)
    with pytest.raises(KeyError, match="Known: apple, pear, plum"):
        registry["zzz"]
    for number in range(20):
        registry.register(f"berry_{number}")(1)
    with pytest.raises(KeyError) as caught:
        registry["zzz"]
    assert "Nearest of 23: " in str(caught.value)
    assert str(caught.value).count(", ") == 4


def test_a_name_is_taken_once():
    registry = Registry("fruit")
    registry.register("apple")(1)
    with pytest.raises(ValueError, match="registered twice"):
        registry.register("apple")


def test_a_metric_and_an_activation_in_new_files_are_found_by_themselves(tmp_path):
    package = tmp_path / "isorl"
    package.mkdir()
    shutil.copy(isorl.__file__, package)
    room = package / "plasticity"
    shutil.copytree(Path(__file__).parents[2] / "plasticity", room)
    (room / "diagnostics" / "a_new_one.py").write_text(METRIC)
    (room / "networks" / "another.py").write_text(ACTIVATION)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{USE}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "'plasticity/outputs/net': 2.0" in done.stdout
    assert "layer_jacobian_max/net/linear2" in done.stdout
