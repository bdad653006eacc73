"""Operations in numpy are torch's."""

import numpy as np
import pytest
import torch

from isorl.agents.batched.aten import OPERATIONS, aten, in_numpy

a, b = (np.random.default_rng(seed).standard_normal((2, 4, 3)).astype(np.float32) for seed in (0, 1))
index = np.random.default_rng(2).integers(0, 3, (2, 4, 1))
positive, small, one = np.abs(a) + 0.1, a[..., 0], np.float32(0.7)
columns = np.ascontiguousarray(a.swapaxes(1, 2)).swapaxes(1, 2)
many = np.random.default_rng(3).standard_normal((2, 20, 24)).astype(np.float32)
CASES = {
    aten.add.Tensor: [(a, b), (a, b, dict(alpha=2))],
    aten.add_.Tensor: [(a, b)],
    aten.sub.Tensor: [(a, b), (a, b, dict(alpha=3))],
    aten.rsub.Scalar: [(a, 1)],
    aten.div.Tensor: [(a, positive)],
    aten.div.Scalar: [(a, 7)],
    aten.unsqueeze.default: [(a, 0), (a, -1), (a, 2)],
    aten.select.int: [(a, -1, 0), (a, 1, 2)],
    aten.select_backward.default: [(small, [2, 4, 3], 2, 1), (small, [2, 4, 3], -1, 0)],
    aten.expand.default: [(a[..., :1], [2, 4, 5]), (small[:, :1], [-1, 6])],
    aten.view.default: [(a, [8, 3]), (a, [-1])],
    aten.sum.default: [(a,)],
    aten.sum.dim_IntList: [(a, [-1]), (a, [0, 2], True), (columns, [1]), (columns, [1], True)],
    aten.mean.dim: [(a, [-1]), (a, [-2, -1]), (a, [1], True)],
    aten.std.correction: [(a, [-1], dict(correction=1)), (a, [-1], dict(correction=0, keepdim=True))],
    aten.max.dim: [(a, -1), (a, 1, True)],
    aten.clamp.default: [(a, -0.5, 0.5), (a, 0.1), (a, None, 0.2)],
    aten.where.self: [(a > 0, a, b)],
    aten.masked_fill_.Scalar: [(a, b > 0, 0)],
    aten.new_zeros.default: [(a, [2, 3])],
    aten.gather.default: [(a, -1, index), (a, 2, index)],
    aten.scatter_add_.default: [(a, -1, index, b[..., :1]), (a, 2, index.repeat(2, -1), b[..., :2])],
    aten.scatter_add.default: [(a, 2, index, b[..., :1])],
    aten._log_softmax.default: [(a, -1, False)],
    aten.mse_loss.default: [(a, b, reduction) for reduction in (0, 1, 2)],
    aten.mse_loss_backward.default: [(a, b, a * b, 0), (one, a, b, 1), (one, a, b, 2)],
    aten.smooth_l1_loss.default: [(3 * a, b, 0, 1.0), (a, b, 0, 0.5), (a, b, 1, 1.0), (a, b, 2, 1.0)],
    aten.smooth_l1_loss_backward.default: [
        (a, 3 * b, a * b, 0, 1.0),
        (one, a, b, 1, 1.0),
        (one, a, b, 2, 0.5),
    ],
    aten.bmm.default: [(a, b.swapaxes(1, 2)), (many, many.swapaxes(1, 2)), (many.swapaxes(1, 2), many)],
    aten.transpose.int: [(a, 0, -1)],
    aten.slice.Tensor: [(a, 1, 1, 3), (a, -1, 0, 3, 2)],
    aten.split.Tensor: [(a, 2, 1), (a, 2, -1)],
    aten.cat.default: [([a, b], 2), ([many.swapaxes(1, 2)] * 2, 2), ([a, b],)],
    aten.squeeze.dims: [(a[..., :1], [2]), (a, [1, 2])],
    aten.argmax.default: [(a, -1), (a, 1, True)],
    aten.threshold_backward.default: [(a, b, 0)],
    aten.tanh_backward.default: [(a, np.tanh(b))],
    aten.pow.Tensor_Scalar: [(a, 2)],
    aten.logical_and_.default: [(a > 0, b > 0)],
    aten.mul_.Tensor: [(a, b)],
    aten.neg_.default: [(a,)],
}
for _name in ("mul", "minimum", "eq", "lt", "gt", "le", "ge"):
    CASES[
        getattr(aten, _name).Tensor
        if _name in ("mul", "eq", "lt", "gt", "le", "ge")
        else getattr(aten, _name).default
    ] = [(a, b)]
for _name in ("exp", "neg", "tanh", "relu"):
    CASES[getattr(aten, _name).default] = [(a,)]
CASES[aten.logical_and.default] = [(a > 0, b > 0)]


def given(value):
    if isinstance(value, list):
        return [given(each) for each in value]
    return torch.as_tensor(value.copy()) if isinstance(value, (np.ndarray, np.generic)) else value


@pytest.mark.parametrize("operation", CASES, ids=str)
def test_numpys_are_torchs(operation):
    for case in CASES[operation]:
        arguments = [argument for argument in case if not isinstance(argument, dict)]
        options = next((argument for argument in case if isinstance(argument, dict)), {})
        here = [
            argument.copy("K") if isinstance(argument, np.ndarray) else argument for argument in arguments
        ]
        there = [given(argument) for argument in arguments]
        found, expected = OPERATIONS[operation](*here, **options), operation(*there, **options)
        pairs = (
            zip(found, expected, strict=True) if isinstance(expected, (tuple, list)) else [(found, expected)]
        )
        for ours, theirs in pairs:
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=2e-6, atol=1e-5)
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


def test_what_numpy_does_not_know_is_torchs():
    """On the same memory, with lists of arrays and several results."""
    assert aten.erf.default not in OPERATIONS
    np.testing.assert_array_equal(in_numpy(aten.erf.default)(a), torch.from_numpy(a).erf().numpy())
    values, indices = in_numpy(aten.sort.default)(a, 1, True)
    np.testing.assert_array_equal(values, np.sort(a, 1)[:, ::-1])
    assert indices.dtype == np.int64
    np.testing.assert_array_equal(in_numpy(aten.stack.default)([a, b], 1), np.stack([a, b], 1))
    written = a.copy()
    in_numpy(aten.erf_.default)(written)
    np.testing.assert_array_equal(written, torch.from_numpy(a).erf().numpy())
