"""Test whether kernels can be launched: on this machine, with strided arguments, with empty batches."""

import pytest
import torch
from kernels import DEVICE, difference, needs_triton, normal

from hrm_offline.ops import launch
from hrm_offline.ops.attention import attention
from hrm_offline.ops.causal_attention import causal_attention
from hrm_offline.ops.conv_silu import conv_silu
from hrm_offline.ops.dispatch import override
from hrm_offline.ops.linear_rms_norm import linear_rms_norm
from hrm_offline.ops.linear_swiglu import linear_swiglu
from hrm_offline.ops.rms_norm import rms_norm
from hrm_offline.ops.swiglu import swiglu


@needs_triton
def test_a_triton_that_cannot_run_is_found_out_before_it_is_needed(monkeypatch):
    probe = launch.failure.__wrapped__
    assert probe(DEVICE) is None

    def no_compiler(*_):
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    monkeypatch.setattr(launch, "launch", no_compiler)
    assert probe(DEVICE) == "a Triton kernel failed to run here, RuntimeError: Failed to find C compiler."
    monkeypatch.setattr(launch, "launch", lambda *_: None)
    assert "wrote nothing" in probe(DEVICE)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strided_arguments_and_gradients(dtype):
    """Give kernels every second column of wider tensors, and a gradient that is an expansion with stride 0."""

    def strided(*shape):
        return normal(*shape[:-1], 2 * shape[-1], dtype=dtype)[..., ::2]

    channels = normal(32, 2, dtype=torch.float32)
    weight, bounds = strided(64, 32), torch.tensor([0, 3, 7], dtype=torch.int32, device=DEVICE)
    cases = [
        (lambda x, r: rms_norm(x, 1e-5, r), [strided(3, 5, 32), strided(3, 5, 32)]),
        (swiglu, [strided(3, 5, 64)]),
        (linear_swiglu, [strided(3, 5, 32), weight]),
        (lambda x: conv_silu(x, channels, channels[:, 0]), [strided(3, 5, 32)]),
        (lambda x, w, r: linear_rms_norm(x, w, r, 1e-5), [strided(3, 5, 32), weight, strided(3, 5, 64)]),
        (lambda x: attention(x, 2), [strided(3, 5, 96)]),
        (lambda x: causal_attention(x, 2, None, bounds, 4), [strided(7, 96)]),
    ]
    for function, tensors in cases:
        results = {}
        for mode in ("triton", "reference"):
            leaves = [t.clone(memory_format=torch.preserve_format).requires_grad_() for t in tensors]
            with override(mode):
                out = function(*[leaf[...] for leaf in leaves])
                out.sum().backward()
            results[mode] = [out, *(leaf.grad for leaf in leaves)]
        for ours, expected in zip(results["triton"], results["reference"]):
            assert difference(ours, expected) < (1e-5 if dtype is torch.float32 else 1e-2)


@pytest.mark.usefixtures("poisoned_memory")
def test_empty_batches():
    with override("triton"):
        assert rms_norm(torch.empty(0, 32, device=DEVICE), 1e-5).shape == (0, 32)
        assert swiglu(torch.empty(0, 32, device=DEVICE)).shape == (0, 16)
        assert attention(torch.empty(0, 9, 48, device=DEVICE), 1).shape == (0, 9, 16)
        assert linear_swiglu(torch.empty(0, 32, device=DEVICE), torch.ones(64, 32, device=DEVICE)).shape == (0, 32)
