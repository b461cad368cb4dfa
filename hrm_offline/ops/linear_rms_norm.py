"""Projection with residual sum and RMS normalisation in its epilogue: each program holds whole rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from hrm_offline.ops.dispatch import uses_triton
from hrm_offline.ops.launch import Config, describe, dot, jit, launch, launcher, pick, tracked, triton
from hrm_offline.ops.rms_norm import rms_norm, rms_norm_backward, rms_norm_reference

if triton:
    import triton.language as tl

MAX_WIDTH = 512  # a program keeps whole rows of its float32 accumulator in registers


# --- public function ---


def linear_rms_norm(x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor, eps: float) -> torch.Tensor:
    """Return rms_norm(x W^T + residual) as [..., width], all of one dtype.

    x [..., inner], weight W [width, inner], residual [..., width]. For rows wider than `MAX_WIDTH` the projection and
    `rms_norm` are computed one after the other. Raises `ValueError` for shapes or dtypes that do not fit.
    """
    width = len(weight)
    shapes_fit = weight.shape[1] == x.shape[-1] and residual.shape == (*x.shape[:-1], width)
    if not shapes_fit or not x.dtype == weight.dtype == residual.dtype:
        raise ValueError(f"linear_rms_norm: these do not fit: {describe(x=x, weight=weight, residual=residual)}")
    problem = f"rows of {width} are wider than {MAX_WIDTH}" if width > MAX_WIDTH else None
    if not uses_triton("linear_rms_norm", x, problem):
        return rms_norm(F.linear(x, weight), eps, residual)
    x, weight, residual = x.contiguous(), weight.contiguous(), residual.contiguous()
    if tracked(x, weight, residual):
        return _LinearRmsNorm.apply(x, weight, residual, eps)
    y = torch.empty_like(residual)
    linear_rms_norm_forward(x, weight, residual, y, None, eps)
    return y


# --- plain PyTorch twin ---


def linear_rms_norm_reference(
    x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor, eps: float
) -> torch.Tensor:
    """Compute `linear_rms_norm` in plain PyTorch."""
    return rms_norm_reference(F.linear(x, weight), eps, residual)


# --- autograd function ---


class _LinearRmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, residual, eps):
        y = torch.empty_like(residual)
        inverse = residual.new_empty(residual.shape[:-1], dtype=torch.float32)
        linear_rms_norm_forward(x, weight, residual, y, inverse, eps)
        ctx.save_for_backward(x, weight, y, inverse)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight, y, inverse = ctx.saved_tensors
        grad_sum = torch.empty_like(y)
        rms_norm_backward(grad.contiguous(), y, inverse, grad_sum)  # of x W^T + residual
        grad_x = grad_sum @ weight if ctx.needs_input_grad[0] else None
        grad_weight = grad_sum.flatten(0, -2).T @ x.flatten(0, -2) if ctx.needs_input_grad[1] else None
        grad_residual = grad_sum if ctx.needs_input_grad[2] else None
        return grad_x, grad_weight, grad_residual, None


# --- launchers ---

# Sized for rows of 512 numbers: the accumulator is BLOCK_M x 512 float32.
_CONFIGS: dict[int, Config] = {
    75: dict(BLOCK_M=16, BLOCK_K=16, num_warps=8, num_stages=1),
    80: dict(BLOCK_M=64, BLOCK_K=32, num_warps=8, num_stages=3),
    90: dict(BLOCK_M=64, BLOCK_K=64, num_warps=8, num_stages=3),
    120: dict(BLOCK_M=64, BLOCK_K=32, num_warps=8, num_stages=3),
}


@launcher("(Tensor x, Tensor weight, Tensor residual, Tensor(a!) y, Tensor(b!)? inverse, float eps) -> ()")
def linear_rms_norm_forward(x, weight, residual, y, inverse, eps):
    """Fill `y` [..., width] and, unless it is None, `inverse` float32 [...], the factor that normalises each row."""
    width, inner = weight.shape
    rows = x.numel() // inner
    config = pick(_CONFIGS, x)
    launch(
        _linear_rms_norm_kernel,
        triton.cdiv(rows, config["BLOCK_M"]),
        x,
        weight,
        residual,
        y,
        inverse,
        rows,
        width,
        inner,
        eps,
        SAVE=inverse is not None,
        EVEN_K=inner % config["BLOCK_K"] == 0,
        WIDTH=max(16, triton.next_power_of_2(width)),
        **config,
    )


# --- kernels ---


@jit
def _linear_rms_norm_kernel(
    x_ptr,
    weight_ptr,
    residual_ptr,
    y_ptr,
    inverse_ptr,
    rows,
    width,
    inner,
    eps,
    SAVE: tl.constexpr,
    EVEN_K: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    # Addresses are a 64-bit start plus 32-bit offsets. Offsets of 64 bits would take twice the registers.
    start_row = tl.program_id(0).to(tl.int64) * BLOCK_M
    row = tl.arange(0, BLOCK_M)
    column = tl.arange(0, WIDTH)
    row_inside = (row < rows - tl.program_id(0) * BLOCK_M)[:, None]
    column_inside = (column < width)[None, :]
    inside = row_inside & column_inside
    offset = row[:, None] * width + column[None, :]

    # The sum starts from the residual. Added at the end, the residual would need registers beside the accumulator's.
    h = tl.load(residual_ptr + start_row * width + offset, mask=inside, other=0.0).to(tl.float32)
    k = tl.arange(0, BLOCK_K)
    x_at = x_ptr + start_row * inner + row[:, None] * inner + k[None, :]
    weight_at = weight_ptr + column[None, :] * inner + k[:, None]
    for start in range(0, inner, BLOCK_K):
        x_inside, weight_inside = row_inside, column_inside
        if not EVEN_K:
            x_inside = x_inside & (start + k < inner)[None, :]
            weight_inside = weight_inside & (start + k < inner)[:, None]
        x = tl.load(x_at + start, mask=x_inside, other=0.0)
        weight = tl.load(weight_at + start, mask=weight_inside, other=0.0)
        h = dot(x, weight, h)

    inverse = tl.rsqrt(tl.sum(h * h, 1) / width + eps)
    tl.store(y_ptr + start_row * width + offset, h * inverse[:, None], mask=inside)
    if SAVE:
        tl.store(inverse_ptr + start_row + row, inverse, mask=row < rows - tl.program_id(0) * BLOCK_M)
