"""Test the residual sum with its RMS norm against the plain reference: outputs and gradients, odd shapes."""

import pytest
import torch
from kernels import DEVICE, DTYPES, TOLERANCE, WIDER, difference, normal

from hrm_offline.ops.add_rms_norm import add_rms_norm, add_rms_norm_reference
from hrm_offline.ops.dispatch import override

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def learned(function, tensors, grads):
    """Return both results, and the gradients of the tensors (None stands for no tensor, or for a result not used)."""
    leaves = [t if t is None else t.clone().requires_grad_() for t in tensors]
    results = function(*leaves, 1e-5)
    used, weights = zip(*((result, grad.to(result.dtype)) for result, grad in zip(results, grads) if grad is not None))
    of = [leaf for leaf in leaves if leaf is not None]
    found = torch.autograd.grad(used, of, weights, allow_unused=True)
    return [*results, *(torch.zeros(1) if gradient is None else gradient for gradient in found)]


def compare(tensors, grads):
    """Compare the kernels with the twin in wider numbers, and with themselves."""
    dtype = tensors[0].dtype
    with override("triton"):
        with torch.no_grad():
            alone = add_rms_norm(*tensors, 1e-5)
        ours, again = (learned(add_rms_norm, tensors, grads) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(ours, again))
    assert all(torch.equal(a, b) for a, b in zip(ours, alone))
    wide = [t if t is None else t.to(WIDER[dtype]) for t in tensors]
    expected = learned(add_rms_norm_reference, wide, grads)
    assert [t.dtype for t in ours[:3]] == [dtype] * 3
    for mine, theirs in zip(ours, expected, strict=True):
        assert difference(mine, theirs) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), [((1,), 64), ((3, 21), 96), ((201,), 64), ((3,), 768)])
def test_add_rms_norm(dtype, rows, width):
    x, delta = normal(*rows, width, dtype=dtype), normal(*rows, width, dtype=dtype, scale=3)
    weight = normal(width, dtype=torch.float32)
    grads = [normal(*rows, width, dtype=dtype) for _ in range(2)]
    compare([x, delta, weight], grads)
    compare([x, None, weight], grads)


@pytest.mark.parametrize("unused", [0, 1])
def test_a_result_that_is_not_used_adds_no_gradient(unused):
    tensors = [normal(7, 32, dtype=torch.float32) for _ in range(2)] + [normal(32, dtype=torch.float32)]
    grads = [normal(7, 32, dtype=torch.float32) for _ in range(2)]
    grads[unused] = None
    compare(tensors, grads)


def test_the_result_is_normalised_and_scaled():
    x, weight = normal(4, 32, dtype=torch.float32, scale=9), torch.linspace(1, 2, 32, device=DEVICE)
    for mode in ("triton", "reference"):
        with override(mode):
            total, normed = add_rms_norm(x, x, weight, 1e-5)
        assert torch.equal(total, 2 * x)
        assert ((normed / weight).square().mean(-1) - 1).abs().max() < 1e-5


def test_no_rows_and_strided_rows():
    x, weight = normal(6, 64, dtype=torch.float32)[:, ::2], normal(32, dtype=torch.float32)
    compare([x, x.flip(0), weight], [normal(6, 32, dtype=torch.float32).T.contiguous().T] * 2)
    with override("triton"):
        nothing = torch.empty(0, 32, device=DEVICE, requires_grad=True)
        total, normed = add_rms_norm(nothing, nothing, weight.requires_grad_(), 1e-5)
        (total + normed).sum().backward()
    assert normed.shape == (0, 32)
    assert not weight.grad.any()
