"""A short convolution along the sequence, channel by channel, with SiLU after it.

The Universal Reasoning Model (arXiv 2512.14693) has it in its feed-forward layer, between the SwiGLU's gate and the
projection down.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from hrm_offline.ops.dispatch import uses_triton
from hrm_offline.ops.launch import describe, jit, launch, launcher, tracked, triton

if triton:
    import triton.language as tl


# --- public function ---


def conv_silu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Return silu(w_0 x_(t-1) + w_1 x_t + b) for each token t of x [B, T, width], in the dtype of `x`.

    Each channel has a pair of weights (w_0, w_1), float32 [width, 2], and a bias, float32 [width]. Before the first
    token of a sequence stands 0, and no token sees a later one. Sums are made in float32. Raises `ValueError` for
    shapes and dtypes that do not fit.
    """
    width = x.shape[-1]
    shapes_fit = x.ndim == 3 and weight.shape == (width, 2) and bias.shape == (width,)
    if not shapes_fit or weight.dtype is not torch.float32 or bias.dtype is not torch.float32:
        raise ValueError(f"conv_silu: these do not fit: {describe(x=x, weight=weight, bias=bias)}")
    if not uses_triton("conv_silu", x):
        return conv_silu_reference(x, weight, bias)
    x, weight, bias = x.contiguous(), weight.contiguous(), bias.contiguous()
    return _ConvSilu.apply(x, weight, bias) if tracked(x, weight, bias) else _forward(x, weight, bias)


# --- plain PyTorch twin ---


def conv_silu_reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Compute `conv_silu` in plain PyTorch."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))  # float64 stays float64
    before = F.pad(wide[:, :-1], (0, 0, 1, 0))  # [B, T, width], the token before each
    return F.silu(before * weight[:, 0] + wide * weight[:, 1] + bias).to(x.dtype)


# --- autograd function ---


class _ConvSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight, bias)
        return _forward(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight, bias = ctx.saved_tensors
        grad_x = torch.empty_like(x)
        # Each program makes one partial sum. These are added up in a fixed order: the same bits every time.
        parts = triton.cdiv(x.shape[0] * x.shape[1], _ROWS_PER_PART)
        partial = x.new_empty(parts, 3, len(bias), dtype=torch.float32)
        conv_silu_backward(grad.contiguous(), x, weight, bias, grad_x, partial)
        sums = partial.sum(0)  # [3, width]
        return grad_x, sums[:2].T, sums[2]


def _forward(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    conv_silu_forward(x, weight, bias, out)
    return out


# --- launchers ---

_ROWS_PER_PART = 128  # tokens for which a program makes partial sums of the weights' gradients


@launcher("(Tensor x, Tensor weight, Tensor bias, Tensor(a!) out) -> ()")
def conv_silu_forward(x, weight, bias, out):
    """Fill `out` [B, T, width]."""
    batch, tokens, width = x.shape
    columns = min(512, triton.next_power_of_2(width))
    rows = 2048 // columns
    launch(
        _conv_silu_forward_kernel,
        triton.cdiv(batch * tokens, rows) * triton.cdiv(width, columns),
        *(x, weight, bias, out),
        *(batch * tokens, tokens, width),
        ROWS=rows,
        COLUMNS=columns,
        num_warps=4,
    )


@launcher("(Tensor grad, Tensor x, Tensor weight, Tensor bias, Tensor(a!) grad_x, Tensor(b!) partial) -> ()")
def conv_silu_backward(grad, x, weight, bias, grad_x, partial):
    """Fill `grad_x` [B, T, width] from `grad`, that of the output, and `partial` float32 [parts, 3, width].

    `partial` holds, summed per part of the tokens, the gradients of both weights and of the bias.
    """
    batch, tokens, width = x.shape
    columns = min(128, triton.next_power_of_2(width))
    launch(
        _conv_silu_backward_kernel,
        len(partial) * triton.cdiv(width, columns),
        *(grad, x, weight, bias, grad_x, partial),
        *(batch * tokens, tokens, width),
        PART=_ROWS_PER_PART,
        ROWS=min(_ROWS_PER_PART, 512 // columns),  # with 1,024 elements a thread needs 128 registers
        COLUMNS=columns,
        num_warps=4,
    )


# --- kernels ---


@jit
def _load(ptr, offset, mask):
    return tl.load(ptr + offset, mask=mask, other=0.0).to(tl.float32)


@jit
def _channels(weight_ptr, bias_ptr, column, inside):
    """Return both weights and the bias of some channels, each float32 [1, COLUMNS]."""
    old = tl.load(weight_ptr + 2 * column, mask=inside, other=0.0)
    new = tl.load(weight_ptr + 2 * column + 1, mask=inside, other=0.0)
    bias = tl.load(bias_ptr + column, mask=inside, other=0.0)
    return old[None, :], new[None, :], bias[None, :]


@jit
def _conv_silu_forward_kernel(
    x_ptr, weight_ptr, bias_ptr, out_ptr, rows, tokens, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    blocks = tl.cdiv(width, COLUMNS)
    row = tl.program_id(0) // blocks * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (column < width)[None, :]
    has_before = inside & (row % tokens > 0)[:, None]
    offset = row.to(tl.int64)[:, None] * width + column[None, :]
    old, new, bias = _channels(weight_ptr, bias_ptr, column, column < width)
    mixed = _load(x_ptr, offset - width, has_before) * old + _load(x_ptr, offset, inside) * new + bias
    tl.store(out_ptr + offset, mixed * tl.sigmoid(mixed), mask=inside)


@jit
def _silu_gradient(mixed, grad):
    """Return the gradient of `mixed` from that of silu(mixed): the derivative is s (1 + x (1 - s)), s = sigmoid(x)."""
    sigmoid = tl.sigmoid(mixed)
    return grad * sigmoid * (1 + mixed * (1 - sigmoid))


@jit
def _conv_silu_backward_kernel(
    grad_ptr,
    x_ptr,
    weight_ptr,
    bias_ptr,
    grad_x_ptr,
    partial_ptr,
    rows,
    tokens,
    width,
    PART: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Compute the gradients of PART tokens in some channels, and their sums for the weights and the bias."""
    blocks = tl.cdiv(width, COLUMNS)
    part = tl.program_id(0) // blocks
    column = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    column_inside = column < width
    old, new, bias = _channels(weight_ptr, bias_ptr, column, column_inside)
    grad_old = tl.zeros((COLUMNS,), tl.float32)
    grad_new = tl.zeros((COLUMNS,), tl.float32)
    grad_bias = tl.zeros((COLUMNS,), tl.float32)
    for start in range(0, PART, ROWS):
        row = part * PART + start + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & column_inside[None, :]
        has_before = inside & (row % tokens > 0)[:, None]
        has_after = inside & (row % tokens < tokens - 1)[:, None]
        offset = row.to(tl.int64)[:, None] * width + column[None, :]
        before, x = _load(x_ptr, offset - width, has_before), _load(x_ptr, offset, inside)
        after = _load(x_ptr, offset + width, has_after)
        own = _silu_gradient(before * old + x * new + bias, _load(grad_ptr, offset, inside))
        # The token after this one sees this one too.
        later = _silu_gradient(x * old + after * new + bias, _load(grad_ptr, offset + width, has_after))
        tl.store(grad_x_ptr + offset, own * new + later * old, mask=inside)
        grad_old += tl.sum(own * before, 0)
        grad_new += tl.sum(own * x, 0)
        grad_bias += tl.sum(own, 0)
    partial_at = partial_ptr + part.to(tl.int64) * (3 * width) + column
    tl.store(partial_at, grad_old, mask=column_inside)
    tl.store(partial_at + width, grad_new, mask=column_inside)
    tl.store(partial_at + 2 * width, grad_bias, mask=column_inside)
