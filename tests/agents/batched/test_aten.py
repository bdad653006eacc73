"""Operations in numpy are torch's."""

import numpy as np
import pytest
import torch

from isorl.agents.batched.aten import OPERATIONS, aten

a, b = (np.random.default_rng(seed).standard_normal((2, 4, 3)).astype(np.float32) for seed in (0, 1))
index = np.random.default_rng(2).integers(0, 3, (2, 4, 1))
positive, small = np.abs(a) + 0.1, a[..., 0]
CASES = {
    aten.add.Tensor: [(a, b), (a, b, dict(alpha=2))],
    aten.add_.Tensor: [(a, b)],
    aten.sub.Tensor: [(a, b), (a, b, dict(alpha=3))],
    aten.rsub.Scalar: [(a, 1)],
    aten.div.Tensor: [(a, positive)],
    aten.div.Scalar: [(a, 7)],
    aten.detach.default: [(a,)],
    aten.alias.default: [(a,)],
    aten.clone.default: [(a,)],
    aten.squeeze.dim: [(a, -1), (a[..., :1], -1), (a[..., :1], 2)],
    aten.unsqueeze.default: [(a, 0), (a, -1), (a, 2)],
    aten.select.int: [(a, -1, 0), (a, 1, 2)],
    aten.select_backward.default: [(small, [2, 4, 3], 2, 1), (small, [2, 4, 3], -1, 0)],
    aten.expand.default: [(a[..., :1], [2, 4, 5]), (small[:, :1], [-1, 6])],
    aten.view.default: [(a, [8, 3]), (a, [-1])],
    aten.sum.default: [(a,)],
    aten.sum.dim_IntList: [(a, [-1]), (a, [0, 2], True)],
    aten.mean.dim: [(a, [-1]), (a, [-2, -1]), (a, [1], True)],
    aten.std.correction: [(a, [-1], dict(correction=1)), (a, [-1], dict(correction=0, keepdim=True))],
    aten.max.dim: [(a, -1), (a, 1, True)],
    aten.clamp.default: [(a, -0.5, 0.5), (a, 0.1), (a, None, 0.2)],
    aten.where.self: [(a > 0, a, b)],
    aten.masked_fill_.Scalar: [(a, b > 0, 0)],
    aten.ones_like.default: [(a,)],
    aten.zeros_like.default: [(a,)],
    aten.scalar_tensor.default: [(0.5,)],
    aten.zeros.default: [([2, 3],)],
    aten.new_zeros.default: [(a, [2, 3])],
    aten.gather.default: [(a, -1, index), (a, 2, index)],
    aten.scatter_add_.default: [(a, -1, index, b[..., :1])],
    aten.scatter_add.default: [(a, 2, index, b[..., :1])],
    aten._log_softmax.default: [(a, -1, False)],
    aten.mse_loss.default: [(a, b, 0)],
    aten.mse_loss_backward.default: [(a, b, a * b, 0)],
    aten.smooth_l1_loss.default: [(3 * a, b, 0, 1.0), (a, b, 0, 0.5)],
    aten.smooth_l1_loss_backward.default: [(a, 3 * b, a * b, 0, 1.0)],
    aten.pow.Tensor_Scalar: [(a, 2)],
    aten.logical_and_.default: [(a > 0, b > 0)],
    aten.mul_.Tensor: [(a, b)],
    aten.neg_.default: [(a,)],
}
for _name in ("mul", "minimum", "maximum", "eq", "lt", "gt", "le", "ge"):
    CASES[
        getattr(aten, _name).Tensor
        if _name in ("mul", "eq", "lt", "gt", "le", "ge")
        else getattr(aten, _name).default
    ] = [(a, b)]
for _name in ("exp", "neg", "abs", "square", "tanh", "sign", "expm1"):
    CASES[getattr(aten, _name).default] = [(a,)]
for _name in ("log", "sqrt", "log1p"):
    CASES[getattr(aten, _name).default] = [(positive,)]
CASES[aten.logical_and.default], CASES[aten.logical_not.default] = [(a > 0, b > 0)], [(a > 0,)]


def given(value):
    return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("operation", CASES, ids=str)
def test_numpys_are_torchs(operation):
    for case in CASES[operation]:
        arguments = [argument for argument in case if not isinstance(argument, dict)]
        options = next((argument for argument in case if isinstance(argument, dict)), {})
        here = [argument.copy() if isinstance(argument, np.ndarray) else argument for argument in arguments]
        there = [given(argument) for argument in arguments]
        extra = (
            {"dtype": torch.float32} if operation in (aten.scalar_tensor.default, aten.zeros.default) else {}
        )
        found, expected = OPERATIONS[operation](*here, **options), operation(*there, **options, **extra)
        pairs = zip(found, expected, strict=True) if isinstance(expected, tuple) else [(found, expected)]
        for ours, theirs in pairs:
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=2e-6, atol=1e-6)
            assert np.shape(ours) == tuple(theirs.shape)
            assert np.asarray(ours).dtype == theirs.numpy().dtype
        for ours, theirs in zip(here, there, strict=True):  # what is written in place
            if isinstance(ours, np.ndarray):
                np.testing.assert_allclose(ours, theirs.numpy(), rtol=2e-6, atol=1e-6)


def test_every_named_operation_is_tested():
    """Of elementwise ones one form each."""
    forms = {operation._overloadpacket for operation in CASES}
    untested = {
        operation._overloadpacket for operation in OPERATIONS if hasattr(operation, "_overloadpacket")
    } - forms
    assert all(str(packet).endswith("_") for packet in untested), untested


@pytest.mark.parametrize("operation", [aten.mse_loss.default, aten.smooth_l1_loss.default], ids=str)
def test_what_is_reduced_at_once_is_left_to_torch(operation):
    with pytest.raises(NotImplementedError):
        OPERATIONS[operation](a, b, 1)
