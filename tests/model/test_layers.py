"""Test one block, by kernels and in plain PyTorch, and the initial weights."""

import dataclasses

import pytest
import torch
from kernels import DEVICE, needs_triton
from networks import ROPE_2D

from hrm_offline.model.layers import Block, truncated_normal
from hrm_offline.ops import dispatch
from hrm_offline.ops.rope import rope_cos_sin
from hrm_offline.presets import PRESETS


def test_truncated_normal_has_the_stated_deviation():
    torch.manual_seed(0)
    drawn = truncated_normal(200_000, std=0.3)
    assert drawn.std() == pytest.approx(0.3, rel=0.01)
    assert drawn.abs().max() < 0.3 * 2.3


@needs_triton
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 5e-3), (torch.bfloat16, 5e-3)])
def test_the_whole_block(dtype, tolerance):
    """Compare output, input gradient and weight gradients of a block, with ragged sequences, with float64.

    The rounding errors of bfloat16 add up over a backward pass to more than 5e-3, in plain PyTorch too. There the
    kernels must be nearer to float64 than plain PyTorch is.
    """
    torch.manual_seed(0)
    block = Block(ROPE_2D).to(DEVICE)
    lengths = torch.tensor([17, 5, 26], device=DEVICE)
    x = torch.randn(3, 26, 64).to(DEVICE, dtype)
    grad = torch.randn(3, 26, 64).to(DEVICE, dtype)
    exists = (torch.arange(26, device=DEVICE) < lengths[:, None])[:, :, None]
    cos_sin = rope_cos_sin(
        "rope-2d", (5, 5), 1, 30, 16, 100.0, DEVICE, torch.float32 if dtype is torch.float32 else torch.float16
    )

    def run(dtype, mode):
        block.zero_grad()
        leaf = x.detach().to(dtype, copy=True).requires_grad_()
        with dispatch.override(mode):
            out = block(leaf, cos_sin, lengths)
            (out * grad.to(dtype) * exists).sum().backward()
            with torch.no_grad():
                assert torch.equal(block(x.to(dtype), cos_sin, lengths), out)
        return [(out * exists).detach(), leaf.grad, *(p.grad.clone() for p in block.parameters())]

    ours, again, plain = run(dtype, "triton"), run(dtype, "triton"), run(dtype, "reference")
    assert all(torch.equal(a, b) for a, b in zip(ours, again))
    block.double()
    expected = run(torch.float64, "reference")

    def errors(tensors):
        return torch.stack([(a - b).norm() / b.norm() for a, b in zip(tensors, expected)])

    if dtype is torch.bfloat16:
        assert (errors(ours) < errors(plain)).all()
        assert errors(ours)[0] < tolerance
    else:
        assert (errors(ours) < tolerance).all()


@needs_triton
def test_inside_torch_compile():
    """Compile a block without a break in its graph: its numbers stay the same."""
    torch.manual_seed(0)
    block = Block(ROPE_2D).to(DEVICE)
    x = torch.randn(2, 26, 64, device=DEVICE)
    cos_sin = rope_cos_sin("rope-2d", (5, 5), 1, 30, 16, 100.0, DEVICE)
    results = []
    with dispatch.override("triton"):
        for module in (block, torch.compile(block, backend="aot_eager", fullgraph=True)):
            block.zero_grad()
            leaf = x.clone().requires_grad_()
            out = module(leaf, cos_sin)
            out.square().mul(0.5).sum().backward()
            with torch.no_grad():
                assert torch.equal(module(x, cos_sin), out)
            results.append([out, leaf.grad, *(p.grad.clone() for p in block.parameters())])
    for plain, compiled in zip(*results):
        assert torch.equal(plain, compiled)


@needs_triton
def test_what_a_training_step_keeps_for_its_backward_pass():
    """Measure the activations that a block keeps: 9 x hidden per token.

    They are x, qkv, attention's output, its norm, and 3 x hidden of the SwiGLU, whose gate and up are computed
    again. The plain path keeps twice as much.
    """
    config = dataclasses.replace(ROPE_2D, hidden_size=256)  # so that the SwiGLU is 3 x hidden wide
    block, x = Block(config).to(DEVICE), torch.randn(2, 26, 256, device=DEVICE)
    assert config.intermediate_size == 3 * 256
    kept = {}
    for mode in ("triton", "reference"):
        storages: dict[int, int] = {}

        def pack(tensor, storages=storages):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with dispatch.override(mode), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = block(x.clone().requires_grad_(), None)
        weights = {p.untyped_storage().data_ptr() for p in block.parameters()}
        kept[mode] = sum(size for at, size in storages.items() if at not in weights) / (2 * 26 * 256 * 4)
        assert out.requires_grad
    assert kept["triton"] == pytest.approx(10, abs=0.2)  # the output of the block, which the next one takes, too
    assert kept["reference"] > 1.9 * kept["triton"]


@pytest.mark.gpu
def test_under_cuda_graph_capture():
    torch.manual_seed(0)
    block = Block(PRESETS["hrm-13m"].model).to(DEVICE)
    x = torch.randn(4, 101, 256, device=DEVICE, dtype=torch.bfloat16)
    cos_sin = rope_cos_sin("rope-2d", (10, 10), 1, 30, 32, 100.0, DEVICE, torch.float16)
    with torch.no_grad():
        expected = block(x, cos_sin)
        static = torch.empty_like(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = block(static, cos_sin)
        static.copy_(x)
        graph.replay()
    assert torch.equal(out, expected)
