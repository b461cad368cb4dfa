"""Compare a kernel with its plain PyTorch reference: inputs, tolerances, gradients."""

import pytest
import torch

from hrm_offline.ops import launch
from hrm_offline.ops.dispatch import override

needs_triton = pytest.mark.skipif(launch.triton is None, reason="Triton is not installed")


DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
if DEVICE.type == "cuda" and torch.cuda.get_device_capability() < (8, 0):
    DTYPES = DTYPES[:2]
# Relative root-mean-square difference: float32 from a float64 twin, 16 bits from a float32 one.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 5e-3}
WIDER = {torch.float32: torch.float64, torch.float16: torch.float32, torch.bfloat16: torch.float32}


def normal(*shape: int, dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
    """Draw normal numbers on the device that kernels are tested on."""
    return (scale * torch.randn(shape)).to(DEVICE, dtype)


def difference(ours: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the relative root-mean-square difference from the expected tensor."""
    assert ours.shape == expected.shape
    ours, expected = ours.detach(), expected.detach()
    return float((ours.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-30))


def run(function, tensors, grad):
    """Return the output of a function and the gradients of its tensors."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    out = function(*leaves)
    out.backward(grad.to(out.dtype))
    return [out.detach(), *(leaf.grad for leaf in leaves)]


def check(function, reference, tensors, tolerance=None, repeat=True):
    """Compare a kernel's output and gradients with those of its reference in wider numbers.

    The path without gradients and, if `repeat`, a second run must equal the first run bit for bit. The interpreter runs
    one program after another, so there a second run in one dtype is enough.
    """
    dtype = tensors[0].dtype
    repeat = repeat and (DEVICE.type == "cuda" or dtype is torch.float32)
    with override("triton"):
        with torch.no_grad():
            alone = function(*tensors)
        grad = torch.randn(alone.shape).to(DEVICE, dtype)
        ours = run(function, tensors, grad)
        again = run(function, tensors, grad) if repeat else ours
    assert torch.equal(ours[0], alone)
    assert all(torch.equal(a, b) for a, b in zip(ours, again))
    expected = run(reference, [t.to(WIDER[dtype]) for t in tensors], grad.to(WIDER[dtype]))
    for name, mine, theirs in zip(["output", *(f"gradient {i}" for i in range(len(tensors)))], ours, expected):
        assert difference(mine, theirs) < (tolerance or TOLERANCE[dtype]), name
    return ours
