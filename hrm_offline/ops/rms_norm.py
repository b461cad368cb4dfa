"""Root-mean-square normalisation of a residual sum, without a learned weight.

Zhang & Sennrich 2019, arXiv 1910.07467. The published HRM code leaves the weight out.
"""

from __future__ import annotations

import torch
from torch.autograd.function import once_differentiable

from hrm_offline.ops.dispatch import uses_triton
from hrm_offline.ops.launch import Config, describe, jit, launch, launcher, tracked, triton

if triton:
    import triton.language as tl


# --- public function ---


def rms_norm(x: torch.Tensor, eps: float, residual: torch.Tensor | None = None) -> torch.Tensor:
    """Return h / sqrt(mean(h^2) + eps) over the last dimension, with h = x + residual.

    x, residual (or None) and the result have one shape [..., width] and one dtype. Sums are made in float32. Raises
    `ValueError` for a residual of another shape or dtype.
    """
    if residual is not None and (residual.shape != x.shape or residual.dtype is not x.dtype):
        raise ValueError(f"rms_norm: these do not fit: {describe(x=x, residual=residual)}")
    if not uses_triton("rms_norm", x):
        return rms_norm_reference(x, eps, residual)
    x = x.contiguous()
    residual = residual if residual is None else residual.contiguous()
    if tracked(x, residual):
        return _RmsNorm.apply(x, residual, eps)
    y = torch.empty_like(x)
    rms_norm_forward(x, residual, y, None, eps)
    return y


# --- plain PyTorch twin ---


def rms_norm_reference(x: torch.Tensor, eps: float, residual: torch.Tensor | None = None) -> torch.Tensor:
    """Compute `rms_norm` in plain PyTorch."""
    x = x if residual is None else x + residual
    wide = x.to(torch.promote_types(x.dtype, torch.float32))  # float64 stays float64
    inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)  # [..., 1]
    return (wide * inverse).to(x.dtype)


# --- autograd function ---


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, residual, eps):
        y = torch.empty_like(x)
        inverse = x.new_empty(x.shape[:-1], dtype=torch.float32)
        rms_norm_forward(x, residual, y, inverse, eps)
        ctx.save_for_backward(y, inverse)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        y, inverse = ctx.saved_tensors
        grad_x = torch.empty_like(y)
        rms_norm_backward(grad.contiguous(), y, inverse, grad_x)
        grad_residual = grad_x if ctx.needs_input_grad[1] else None  # h is a sum: both gradients are the same
        return grad_x, grad_residual, None


# --- launchers ---


def _constants(width: int) -> Config:
    """Return the tile of a program: whole rows, about 2,048 elements."""
    padded = triton.next_power_of_2(width)
    return dict(ROWS=max(1, 2048 // padded), WIDTH=padded, num_warps=4)


@launcher("(Tensor x, Tensor? residual, Tensor(a!) y, Tensor(b!)? inverse, float eps) -> ()")
def rms_norm_forward(x, residual, y, inverse, eps):
    """Fill `y` [..., width] and, unless it is None, `inverse` float32 [...], the factor that normalises each row."""
    width = x.shape[-1]
    rows = x.numel() // width
    constants = _constants(width)
    launch(
        _rms_norm_forward_kernel,
        triton.cdiv(rows, constants["ROWS"]),
        x,
        residual,
        y,
        inverse,
        rows,
        width,
        eps,
        RESIDUAL=residual is not None,
        SAVE=inverse is not None,
        **constants,
    )


@launcher("(Tensor grad, Tensor y, Tensor inverse, Tensor(a!) grad_x) -> ()")
def rms_norm_backward(grad, y, inverse, grad_x):
    """Fill `grad_x`, the gradient of x and of the residual, from the output `y` and the factors `inverse`."""
    width = y.shape[-1]
    rows = y.numel() // width
    constants = _constants(width)
    launch(
        _rms_norm_backward_kernel,
        triton.cdiv(rows, constants["ROWS"]),
        grad,
        y,
        inverse,
        grad_x,
        rows,
        width,
        **constants,
    )


# --- kernels ---


@jit
def _rms_norm_forward_kernel(
    x_ptr,
    residual_ptr,
    y_ptr,
    inverse_ptr,
    rows,
    width,
    eps,
    RESIDUAL: tl.constexpr,
    SAVE: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside = (row < rows)[:, None] & (column < width)[None, :]
    offset = row.to(tl.int64)[:, None] * width + column[None, :]
    h = tl.load(x_ptr + offset, mask=inside, other=0.0).to(tl.float32)
    if RESIDUAL:
        h += tl.load(residual_ptr + offset, mask=inside, other=0.0).to(tl.float32)
    inverse = tl.rsqrt(tl.sum(h * h, 1) / width + eps)
    tl.store(y_ptr + offset, h * inverse[:, None], mask=inside)
    if SAVE:
        tl.store(inverse_ptr + row, inverse, mask=row < rows)


@jit
def _rms_norm_backward_kernel(
    grad_ptr, y_ptr, inverse_ptr, grad_x_ptr, rows, width, ROWS: tl.constexpr, WIDTH: tl.constexpr
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside = (row < rows)[:, None] & (column < width)[None, :]
    offset = row.to(tl.int64)[:, None] * width + column[None, :]
    grad = tl.load(grad_ptr + offset, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(y_ptr + offset, mask=inside, other=0.0).to(tl.float32)
    inverse = tl.load(inverse_ptr + row, mask=row < rows, other=0.0)
    # y = h r with r = inverse, so the gradient of h is r (grad - y mean(grad y)): h itself is not needed.
    grad_x = inverse[:, None] * (grad - y * (tl.sum(grad * y, 1) / width)[:, None])
    tl.store(grad_x_ptr + offset, grad_x, mask=inside)
