"""Projection to gate and up with the SwiGLU in its epilogue: gate and up are not written to memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from hrm_offline.ops.dispatch import uses_triton
from hrm_offline.ops.launch import Config, describe, dot, jit, launch, launcher, pick, tracked, triton
from hrm_offline.ops.swiglu import silu_gradients, swiglu, swiglu_reference

if triton:
    import triton.language as tl


# --- public function ---


def linear_swiglu(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return swiglu(x W^T): x [..., width], weight W [2 x inner, width] -> [..., inner], all of one dtype.

    The first `inner` rows of the weight make the gate, the others up. The backward pass computes gate and up once more
    from x: that costs a fifth of the layer's arithmetic and saves two thirds of its memory.
    Raises `ValueError` for shapes or dtypes that do not fit.
    """
    if weight.shape[1] != x.shape[-1] or len(weight) % 2 or weight.dtype is not x.dtype:
        raise ValueError(f"linear_swiglu: these do not fit: {describe(x=x, weight=weight)}")
    if not uses_triton("linear_swiglu", x):
        return swiglu(F.linear(x, weight))
    x, weight = x.contiguous(), weight.contiguous()
    return _LinearSwiglu.apply(x, weight) if tracked(x, weight) else _forward(x, weight)


# --- plain PyTorch twin ---


def linear_swiglu_reference(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Compute `linear_swiglu` in plain PyTorch."""
    return swiglu_reference(F.linear(x, weight))


# --- autograd function ---


class _LinearSwiglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return _forward(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grad_gate_up = x.new_empty(*x.shape[:-1], len(weight))
        linear_swiglu_backward(x, weight, grad.contiguous(), grad_gate_up)
        grad_x = grad_gate_up @ weight if ctx.needs_input_grad[0] else None
        grad_weight = grad_gate_up.flatten(0, -2).T @ x.flatten(0, -2) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight


def _forward(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    hidden = x.new_empty(*x.shape[:-1], len(weight) // 2)
    linear_swiglu_forward(x, weight, hidden)
    return hidden


# --- launchers ---

# Gate and up have an accumulator of BLOCK_M x BLOCK_N float32 each.
_FORWARD: dict[int, Config] = {
    75: dict(BLOCK_M=32, BLOCK_N=32, BLOCK_K=32, GROUP=8, num_warps=4, num_stages=1),
    80: dict(BLOCK_M=128, BLOCK_N=64, BLOCK_K=64, GROUP=8, num_warps=8, num_stages=3),
    90: dict(BLOCK_M=128, BLOCK_N=128, BLOCK_K=64, GROUP=8, num_warps=8, num_stages=3),
    120: dict(BLOCK_M=128, BLOCK_N=64, BLOCK_K=64, GROUP=8, num_warps=8, num_stages=3),
}
# The backward pass has a longer epilogue, which spills on 9.0 with the tile of the forward pass.
_BACKWARD = _FORWARD | {90: dict(BLOCK_M=128, BLOCK_N=64, BLOCK_K=64, GROUP=8, num_warps=8, num_stages=3)}


def _launch(x, weight, grad, out, config: Config) -> None:
    width, inner = x.shape[-1], len(weight) // 2
    rows = x.numel() // width
    programs = triton.cdiv(rows, config["BLOCK_M"]) * triton.cdiv(inner, config["BLOCK_N"])
    launch(
        _linear_swiglu_kernel,
        programs,
        x,
        weight,
        grad,
        out,
        rows,
        inner,
        width,
        BACKWARD=grad is not None,
        EVEN_K=width % config["BLOCK_K"] == 0,
        **config,
    )


@launcher("(Tensor x, Tensor weight, Tensor(a!) hidden) -> ()")
def linear_swiglu_forward(x, weight, hidden):
    """Fill `hidden` [..., inner]."""
    _launch(x, weight, None, hidden, pick(_FORWARD, x))


@launcher("(Tensor x, Tensor weight, Tensor grad, Tensor(a!) grad_gate_up) -> ()")
def linear_swiglu_backward(x, weight, grad, grad_gate_up):
    """Fill `grad_gate_up` [..., 2 x inner], the gradient of x W^T, from `grad` [..., inner], that of the output."""
    _launch(x, weight, grad, grad_gate_up, pick(_BACKWARD, x))


# --- kernels ---


@jit
def _linear_swiglu_kernel(
    x_ptr,
    weight_ptr,
    grad_ptr,
    out_ptr,
    rows,
    inner,
    width,
    BACKWARD: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    # Programs that run at the same time share GROUP blocks of rows, so that these stay in the L2 cache.
    blocks_m, blocks_n = tl.cdiv(rows, BLOCK_M), tl.cdiv(inner, BLOCK_N)
    group = tl.program_id(0) // (GROUP * blocks_n)
    group_size = min(blocks_m - group * GROUP, GROUP)
    within = tl.program_id(0) % (GROUP * blocks_n)
    block_m = group * GROUP + within % group_size
    column = within // group_size * BLOCK_N + tl.arange(0, BLOCK_N)
    # Addresses are a 64-bit start plus 32-bit offsets. Offsets of 64 bits would take twice the registers.
    start_row = block_m.to(tl.int64) * BLOCK_M
    row = tl.arange(0, BLOCK_M)
    row_inside, column_inside = (row < rows - block_m * BLOCK_M)[:, None], column < inner

    k = tl.arange(0, BLOCK_K)
    x_at = x_ptr + start_row * width + row[:, None] * width + k[None, :]
    gate_at = weight_ptr + column[None, :] * width + k[:, None]
    gate = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    up = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, width, BLOCK_K):
        x_inside, weight_inside = row_inside, column_inside[None, :]
        if not EVEN_K:
            x_inside = x_inside & (start + k < width)[None, :]
            weight_inside = weight_inside & (start + k < width)[:, None]
        x = tl.load(x_at + start, mask=x_inside, other=0.0)
        gate_weight = tl.load(gate_at + start, mask=weight_inside, other=0.0)
        up_weight = tl.load(gate_at + inner * width + start, mask=weight_inside, other=0.0)
        gate = dot(x, gate_weight, gate)
        up = dot(x, up_weight, up)

    inside = row_inside & column_inside[None, :]
    if BACKWARD:
        grad_at = grad_ptr + start_row * inner + row[:, None] * inner + column[None, :]
        grad = tl.load(grad_at, mask=inside, other=0.0).to(tl.float32)
        grad_gate, grad_up = silu_gradients(gate, up, grad)
        gate_up_at = out_ptr + start_row * (2 * inner) + row[:, None] * (2 * inner) + column[None, :]
        tl.store(gate_up_at, grad_gate, mask=inside)
        tl.store(gate_up_at + inner, grad_up, mask=inside)
    else:
        hidden_at = out_ptr + start_row * inner + row[:, None] * inner + column[None, :]
        tl.store(hidden_at, gate * tl.sigmoid(gate) * up, mask=inside)
