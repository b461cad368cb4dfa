"""Residual sum, and its root-mean-square normalisation with a learned weight, for pre-norm blocks.

Zhang & Sennrich 2019, arXiv 1910.07467. A pre-norm block carries the sum on and computes with the normalised numbers,
so that both are results. `rms_norm` is the operation of post-norm blocks, which carry on the normalised numbers alone.
"""

from __future__ import annotations

import torch
from torch.autograd.function import once_differentiable

from hrm_offline.ops.dispatch import uses_triton
from hrm_offline.ops.launch import Config, describe, jit, launch, launcher, tracked, triton

if triton:
    import triton.language as tl


# --- public function ---


def add_rms_norm(
    x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return total = x + delta, and total / sqrt(mean(total^2) + eps) * weight over the last dimension.

    `x`, `delta` and both results have one shape [..., D] and one dtype. Without a `delta` the first result is `x`.
    `weight` is float32 [D]. Sums are made in float32. Raises `ValueError` for shapes and dtypes that do not fit.
    """
    fits = weight.shape == x.shape[-1:] and weight.dtype is torch.float32
    if not fits or (delta is not None and (delta.shape != x.shape or delta.dtype is not x.dtype)):
        raise ValueError(f"add_rms_norm: these do not fit: {describe(x=x, delta=delta, weight=weight)}")
    if not uses_triton("add_rms_norm", x):
        return add_rms_norm_reference(x, delta, weight, eps)
    x, weight = x.contiguous(), weight.contiguous()
    delta = delta if delta is None else delta.contiguous()
    if tracked(x, delta, weight):
        results = _AddRmsNorm.apply(x, delta, weight, eps)
    else:
        results = _forward(x, delta, weight, None, eps)
    return (x, *results) if delta is None else results


# --- plain PyTorch twin ---


def add_rms_norm_reference(
    x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute `add_rms_norm` in plain PyTorch."""
    total = x if delta is None else x + delta
    wide = total.to(torch.promote_types(total.dtype, torch.float32))  # float64 stays float64
    inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)  # [..., 1]
    return total, (wide * inverse * weight).to(total.dtype)


# --- autograd function ---


class _AddRmsNorm(torch.autograd.Function):
    """Return (total, normed), or (normed,) without a delta: then the total is an input."""

    @staticmethod
    def forward(ctx, x, delta, weight, eps):
        inverse = x.new_empty(x.shape[:-1], dtype=torch.float32)
        results = _forward(x, delta, weight, inverse, eps)
        ctx.save_for_backward(x if delta is None else results[0], weight, inverse)
        ctx.set_materialize_grads(False)  # a result that nobody uses has the gradient None
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        total, weight, inverse = ctx.saved_tensors
        grad_total, grad_normed = (None, *grads)[-2:]
        if grad_normed is None:
            return grad_total, grad_total, None, None
        grad_x = torch.empty_like(total)
        # Each program makes one partial sum. These are added up in a fixed order: the same bits every time.
        parts = triton.cdiv(inverse.numel(), _ROWS_PER_PART)
        partial = total.new_empty(parts, len(weight), dtype=torch.float32)
        grad_total = grad_total if grad_total is None else grad_total.contiguous()
        add_rms_norm_backward(grad_normed.contiguous(), grad_total, total, weight, inverse, grad_x, partial)
        # The total is a sum: both of its terms have the same gradient.
        return grad_x, grad_x if ctx.needs_input_grad[1] else None, partial.sum(0), None


def _forward(x, delta, weight, inverse, eps) -> tuple[torch.Tensor, ...]:
    normed = torch.empty_like(x)
    total = None if delta is None else torch.empty_like(x)
    add_rms_norm_forward(x, delta, weight, total, normed, inverse, eps)
    return (normed,) if total is None else (total, normed)


# --- launchers ---

_ROWS_PER_PART = 64  # for which a program makes a partial sum of the weight's gradient


def _constants(width: int) -> Config:
    """Return the tile of a program: whole rows, about 2,048 elements."""
    padded = triton.next_power_of_2(width)
    return dict(ROWS=max(1, min(_ROWS_PER_PART, 2048 // padded)), WIDTH=padded, num_warps=4)


@launcher(
    "(Tensor x, Tensor? delta, Tensor weight, Tensor(a!)? total, Tensor(b!) normed, Tensor(c!)? inverse, "
    "float eps) -> ()"
)
def add_rms_norm_forward(x, delta, weight, total, normed, inverse, eps):
    """Fill `normed` [..., D] and, with a `delta`, `total`; and `inverse` float32 [...] unless it is None.

    `inverse` is the factor that normalises each row.
    """
    width = x.shape[-1]
    rows = x.numel() // width
    constants = _constants(width)
    launch(
        _add_rms_norm_forward_kernel,
        triton.cdiv(rows, constants["ROWS"]),
        *(x, delta, weight, total, normed, inverse),
        *(rows, width, eps),
        ADD=delta is not None,
        SAVE=inverse is not None,
        **constants,
    )


@launcher(
    "(Tensor grad_normed, Tensor? grad_total, Tensor total, Tensor weight, Tensor inverse, Tensor(a!) grad_x, "
    "Tensor(b!) partial) -> ()"
)
def add_rms_norm_backward(grad_normed, grad_total, total, weight, inverse, grad_x, partial):
    """Fill `grad_x` [..., D], and `partial` float32 [parts, D]: the weight's gradients, summed per part."""
    width = total.shape[-1]
    launch(
        _add_rms_norm_backward_kernel,
        len(partial),
        *(grad_normed, grad_total, total, weight, inverse, grad_x, partial),
        *(total.numel() // width, width),
        ADD=grad_total is not None,
        PART=_ROWS_PER_PART,
        **_constants(width),
    )


# --- kernels ---


@jit
def _add_rms_norm_forward_kernel(
    x_ptr,
    delta_ptr,
    weight_ptr,
    total_ptr,
    normed_ptr,
    inverse_ptr,
    rows,
    width,
    eps,
    ADD: tl.constexpr,
    SAVE: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside = (row < rows)[:, None] & (column < width)[None, :]
    offset = row.to(tl.int64)[:, None] * width + column[None, :]
    weight = tl.load(weight_ptr + column, mask=column < width, other=0.0)
    total = tl.load(x_ptr + offset, mask=inside, other=0.0)
    if ADD:
        delta = tl.load(delta_ptr + offset, mask=inside, other=0.0)
        # The sum is rounded before it is normalised, so that both passes see the same numbers.
        total = (total.to(tl.float32) + delta.to(tl.float32)).to(total.dtype)
        tl.store(total_ptr + offset, total, mask=inside)
    wide = total.to(tl.float32)
    inverse = tl.rsqrt(tl.sum(wide * wide, 1) / width + eps)
    tl.store(normed_ptr + offset, wide * inverse[:, None] * weight[None, :], mask=inside)
    if SAVE:
        tl.store(inverse_ptr + row, inverse, mask=row < rows)


@jit
def _add_rms_norm_backward_kernel(
    grad_normed_ptr,
    grad_total_ptr,
    total_ptr,
    weight_ptr,
    inverse_ptr,
    grad_x_ptr,
    partial_ptr,
    rows,
    width,
    ADD: tl.constexpr,
    PART: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Compute the gradients of PART rows, and their sum's for the weight."""
    column = tl.arange(0, WIDTH)
    column_inside = column < width
    weight = tl.load(weight_ptr + column, mask=column_inside, other=0.0)
    grad_weight = tl.zeros((WIDTH,), tl.float32)
    for start in range(0, PART, ROWS):
        row = tl.program_id(0) * PART + start + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & column_inside[None, :]
        offset = row.to(tl.int64)[:, None] * width + column[None, :]
        inverse = tl.load(inverse_ptr + row, mask=row < rows, other=0.0)
        y = tl.load(total_ptr + offset, mask=inside, other=0.0).to(tl.float32) * inverse[:, None]
        grad = tl.load(grad_normed_ptr + offset, mask=inside, other=0.0).to(tl.float32)
        grad_weight += tl.sum(grad * y, 0)
        grad *= weight[None, :]
        # y = total r with r = inverse, so the gradient of the total is r (grad - y mean(grad y)).
        grad_x = inverse[:, None] * (grad - y * (tl.sum(grad * y, 1) / width)[:, None])
        if ADD:
            grad_x += tl.load(grad_total_ptr + offset, mask=inside, other=0.0).to(tl.float32)
        tl.store(grad_x_ptr + offset, grad_x, mask=inside)
    tl.store(partial_ptr + tl.program_id(0).to(tl.int64) * width + column, grad_weight, mask=column_inside)
