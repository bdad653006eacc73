"""Large linear layers by another library compute the same."""

import pytest
import torch
from torch import nn

from isorl.agents import products
from isorl.plasticity import NetworkSpec, build_nature_cnn

SAMPLES = 48


@pytest.fixture
def other_library(monkeypatch):
    """Wherever the tests run; counts the products."""
    times, calls = products._times, []
    monkeypatch.setattr(products, "numpy_is_ahead", lambda: True)
    monkeypatch.setattr(products, "_times", lambda *pair: calls.append(1) or times(*pair))
    return calls


@pytest.fixture
def body():
    torch.manual_seed(0)
    return build_nature_cnn((4, 84, 84), NetworkSpec(activation="relu"))


def gradients(body, compute, x):
    outputs = compute(x)
    return outputs, torch.autograd.grad(outputs.square().sum(), [x, *body.parameters()])


def test_the_same_answers_and_gradients(body, other_library):
    x = torch.rand(SAMPLES, 4, 84, 84, requires_grad=True)
    ours, our_gradients = gradients(body, lambda x: products.through(body, x), x)
    assert len(other_library) == 3
    theirs, their_gradients = gradients(body, body, x)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    for one, other in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


def test_leaves_to_torch_what_is_small_or_watched(body, other_library):
    x = torch.rand(SAMPLES, 4, 84, 84)
    assert torch.equal(products.through(body, x[:8]), body(x[:8]))
    with torch.autocast("cpu", torch.bfloat16):
        products.through(body, x)
    linear = next(module for module in body.modules() if isinstance(module, nn.Linear))
    seen = []
    with linear.register_forward_hook(lambda *call: seen.append(1)):
        products.through(body, x)
    assert seen == [1]
    assert not other_library


def test_threads_of_the_other_library_are_torchs(other_library):
    controller = products._libraries()

    def threads():
        return {each["num_threads"] for each in controller.info() if "numpy" in each["filepath"]}

    before = threads()
    products._times(torch.rand(4, 4), torch.rand(4, 4))
    assert threads() == before, "outside, they are left as they were"


def test_only_where_torch_is_behind(monkeypatch, tmp_path):
    products.numpy_is_ahead.cache_clear()
    info = tmp_path / "cpuinfo"
    info.write_text("vendor_id : GenuineIntel\nflags : avx512f\n")
    monkeypatch.setattr(products, "Path", lambda _: info)
    assert not products.numpy_is_ahead()
    products.numpy_is_ahead.cache_clear()
