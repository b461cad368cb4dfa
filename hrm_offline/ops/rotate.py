"""Rotate the queries and keys of a projection by rotary positions, before attention reads them.

Attention can rotate as it loads, which needs no pass over memory but repeats the rotation of every key for each block
of queries. Where arithmetic is dearer than memory, one pass in front is less work. The formula is that of `rope`.
"""

from __future__ import annotations

import torch
from torch.autograd.function import once_differentiable

from hrm_offline.ops.dispatch import uses_triton
from hrm_offline.ops.launch import jit, launch, launcher, tracked, triton
from hrm_offline.ops.rope import rope

if triton:
    import triton.language as tl


# --- public function ---


def rotate(qkv: torch.Tensor, num_heads: int, cos_sin: torch.Tensor) -> torch.Tensor:
    """Return qkv [B, T, 3 x heads x head_dim] with its queries and keys rotated, in qkv's dtype.

    `cos_sin` holds cosines and sines (see `rope_cos_sin`). It is [T, head_dim], or [B, T, head_dim] for sequences that
    lie on canvases of their own. Values are copied. Raises `ValueError` for cosines and sines of another shape.
    """
    batch, tokens, width = qkv.shape
    head_dim = width // (3 * num_heads)
    if cos_sin.shape not in ((tokens, head_dim), (batch, tokens, head_dim)):
        raise ValueError(f"cos_sin has shape {tuple(cos_sin.shape)}, expected [{batch}, ]{tokens}, {head_dim}")
    if not uses_triton("rotate", qkv):
        return rotate_reference(qkv, num_heads, cos_sin)
    qkv, cos_sin = qkv.contiguous(), cos_sin.contiguous()
    return _Rotate.apply(qkv, num_heads, cos_sin) if tracked(qkv) else _rotated(qkv, num_heads, cos_sin, False)


# --- plain PyTorch twin ---


def rotate_reference(qkv: torch.Tensor, num_heads: int, cos_sin: torch.Tensor) -> torch.Tensor:
    """Compute `rotate` in plain PyTorch."""
    heads = qkv.unflatten(-1, (3 * num_heads, -1))  # [B, T, 3 x heads, head_dim]
    queries_and_keys, values = heads.split([2 * num_heads, num_heads], dim=2)
    return torch.cat([rope(queries_and_keys, cos_sin), values], dim=2).flatten(2)


# --- autograd function ---


def _rotated(qkv: torch.Tensor, num_heads: int, cos_sin: torch.Tensor, inverse: bool) -> torch.Tensor:
    out = torch.empty_like(qkv)
    rotate_rows(qkv, cos_sin, num_heads, inverse, out)
    return out


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, qkv, num_heads, cos_sin):
        ctx.save_for_backward(cos_sin)
        ctx.num_heads = num_heads
        return _rotated(qkv, num_heads, cos_sin, False)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (cos_sin,) = ctx.saved_tensors
        # A rotation's transpose is the rotation by the opposite angle.
        return _rotated(grad.contiguous(), ctx.num_heads, cos_sin, True), None, None


# --- launchers ---

_BLOCK = 1024  # elements of one program


@launcher("(Tensor qkv, Tensor cos_sin, int num_heads, bool inverse, Tensor(a!) out) -> ()")
def rotate_rows(qkv, cos_sin, num_heads, inverse, out):
    """Fill out [B, T, 3 x heads x head_dim]; with `inverse` the angles count backwards."""
    batch, tokens, width = qkv.shape
    programs_per_token = triton.cdiv(width, _BLOCK)
    launch(
        _rotate_kernel,
        batch * tokens * programs_per_token,
        qkv,
        cos_sin,
        out,
        tokens,
        width,
        cos_sin.stride(0) if cos_sin.ndim == 3 else 0,
        INVERSE=inverse,
        HEAD_DIM=width // (3 * num_heads),
        BLOCK=min(_BLOCK, triton.next_power_of_2(width)),
        num_warps=4,
    )


# --- kernels ---


@jit
def _rotate_kernel(
    qkv_ptr,
    cos_sin_ptr,
    out_ptr,
    tokens,
    width,
    sequence_stride,
    INVERSE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Rotate some columns of one token.

    An element's partner in the rotation is loaded a second time, from the cache.
    """
    HALF: tl.constexpr = HEAD_DIM // 2
    blocks = tl.cdiv(width, BLOCK)
    token = (tl.program_id(0) // blocks).to(tl.int64)
    column = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    turns = column < width // 3 * 2  # queries and keys; values stay
    within = column % HEAD_DIM
    is_first = within < HALF
    partner = tl.where(is_first, column + HALF, column - HALF)

    row_ptr = qkv_ptr + token * width
    x = tl.load(row_ptr + column, mask=inside, other=0.0)
    other = tl.load(row_ptr + partner, mask=inside & turns, other=0.0).to(tl.float32)
    angle_ptr = cos_sin_ptr + token // tokens * sequence_stride + token % tokens * HEAD_DIM + within % HALF
    cos = tl.load(angle_ptr, mask=inside & turns, other=1.0).to(tl.float32)
    sin = tl.load(angle_ptr + HALF, mask=inside & turns, other=0.0).to(tl.float32)
    if INVERSE:
        sin = -sin
    sign = tl.where(is_first, -1.0, 1.0)
    rotated = x.to(tl.float32) * cos + sign * other * sin
    tl.store(out_ptr + token * width + column, tl.where(turns, rotated, x.to(tl.float32)), mask=inside)
