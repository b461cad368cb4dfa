"""One decoding step of many sequences: attention of each sequence's new token, with a key-value cache.

A program computes one head of one sequence. It reads the part of the cache that is filled and nothing else, so that
sequences of unequal lengths decode together. There are no matrix products: each number of the cache is used once, and
reading it takes the time.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from hrm_offline.ops.dispatch import uses_triton
from hrm_offline.ops.launch import LOG2_E, describe, jit, launch, launcher, load_rows, triton
from hrm_offline.ops.rope import rope

if triton:
    import triton.language as tl

HEAD_DIMS = (16, 32, 64, 128)  # that the kernel is made for


# --- public function ---


def cached_attention(
    qkv: torch.Tensor,
    num_heads: int,
    cos_sin: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    lengths: torch.Tensor,
) -> torch.Tensor:
    """Add each sequence's new token to its cache and return its attention, [B, heads x head_dim] in qkv's dtype.

    `qkv` [B, 3 x heads x head_dim] holds the new tokens' queries, then keys, then values.
    `cos_sin` [B, head_dim] (see `rope_cos_sin`) rotates the new queries and keys.
    `keys` and `values` [B, heads, room, head_dim], contiguous and of qkv's dtype, hold rotated keys, and values.
    `lengths` [B], int32 or int64, counts the tokens in each cache, fewer than `room`. The new key and value are written
    in place at position lengths[b], and the new query sees positions 0 to lengths[b]. What lies beyond is not seen and
    may be anything.
    There is no gradient. Lengths themselves are not checked, since reading them would wait for the device. Raises
    `ValueError` for shapes and dtypes that do not fit.
    """
    _check(qkv, num_heads, cos_sin, keys, values, lengths)
    head_dim = keys.shape[3]
    problem = None if head_dim in HEAD_DIMS else f"head dimension {head_dim} is none of {HEAD_DIMS}"
    if not uses_triton("cached_attention", qkv, problem):
        return cached_attention_reference(qkv, num_heads, cos_sin, keys, values, lengths)
    out = qkv.new_empty(len(qkv), num_heads * head_dim)
    cached_attention_forward(qkv.contiguous(), num_heads, cos_sin.contiguous(), keys, values, lengths, out)
    return out


def _check(qkv, num_heads, cos_sin, keys, values, lengths) -> None:
    batch, width = qkv.shape
    head_dim = width // (3 * num_heads)
    fits = (
        width == 3 * num_heads * head_dim
        and head_dim % 2 == 0
        and cos_sin.shape == (batch, head_dim)
        and keys.shape[:2] == (batch, num_heads)
        and keys.shape[3:] == (head_dim,)
        and values.shape == keys.shape
        and keys.dtype is values.dtype is qkv.dtype
        and lengths.shape == (batch,)
        and lengths.dtype in (torch.int32, torch.int64)
    )
    if not fits:
        tensors = describe(qkv=qkv, cos_sin=cos_sin, keys=keys, values=values, lengths=lengths)
        raise ValueError(f"cached_attention with {num_heads} heads: these do not fit: {tensors}")
    if not (keys.is_contiguous() and values.is_contiguous()):
        raise ValueError("cached_attention: keys and values must be contiguous, since they are written in place")


# --- plain PyTorch twin ---


def cached_attention_reference(
    qkv: torch.Tensor,
    num_heads: int,
    cos_sin: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    lengths: torch.Tensor,
) -> torch.Tensor:
    """Compute `cached_attention` in plain PyTorch."""
    batch = len(qkv)
    if batch == 0:
        return qkv[:, : qkv.shape[1] // 3]
    qk, v = qkv.view(batch, 3 * num_heads, -1).split([2 * num_heads, num_heads], dim=1)
    q, k = rope(qk, cos_sin).chunk(2, dim=1)  # [B, heads, head_dim]
    sequence, lengths = torch.arange(batch, device=qkv.device), lengths.long()
    keys[sequence, :, lengths] = k
    values[sequence, :, lengths] = v

    q, filled = q[:, :, None], int(lengths.max()) + 1
    keys, values = keys[:, :, :filled], values[:, :, :filled]
    seen = torch.arange(filled, device=qkv.device) <= lengths[:, None]  # [B, filled]
    mask = seen[:, None, None]
    out = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
    if not math.isfinite(out.sum(dtype=torch.float32)):
        # An unseen number that is not finite spoils the sum, since zero times infinity is NaN. Caches rarely hold any,
        # and clearing a copy every time would take longer than the rest.
        unseen = ~seen[:, None, :, None]
        keys, values = keys.masked_fill(unseen, 0), values.masked_fill(unseen, 0)
        out = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
    return out.flatten(1)


# --- launchers ---

_BLOCK = 4096  # elements of the cache that a program loads at a time


@launcher(
    "(Tensor qkv, int num_heads, Tensor cos_sin, Tensor(a!) keys, Tensor(b!) values, Tensor lengths, "
    "Tensor(c!) out) -> ()"
)
def cached_attention_forward(qkv, num_heads, cos_sin, keys, values, lengths, out):
    """Fill `out` [B, heads x head_dim], and position lengths[b] of `keys` and `values`."""
    head_dim = keys.shape[3]
    launch(
        _cached_attention_forward_kernel,
        len(qkv) * num_heads,
        qkv,
        cos_sin,
        keys,
        values,
        lengths,
        out,
        num_heads,
        keys.shape[2],
        head_dim**-0.5,
        HEAD_DIM=head_dim,
        BLOCK=_BLOCK // head_dim,
        num_warps=4,
    )


# --- kernels ---


@jit
def _load_rotated(ptr, cos_sin_ptr, HEAD_DIM: tl.constexpr):
    """Load one head's query or key and rotate it, as `rope` does. The partners are loaded again, from the cache."""
    HALF: tl.constexpr = HEAD_DIM // 2
    column = tl.arange(0, HEAD_DIM)
    is_first = column < HALF
    x = tl.load(ptr + column)
    partner = tl.load(ptr + tl.where(is_first, column + HALF, column - HALF)).to(tl.float32)
    cos = tl.load(cos_sin_ptr + column % HALF).to(tl.float32)
    sin = tl.load(cos_sin_ptr + column % HALF + HALF).to(tl.float32)
    rotated = x.to(tl.float32) * cos + tl.where(is_first, -1.0, 1.0) * partner * sin
    return rotated.to(x.dtype)


@jit
def _cached_attention_forward_kernel(
    qkv_ptr,
    cos_sin_ptr,
    keys_ptr,
    values_ptr,
    lengths_ptr,
    out_ptr,
    heads,
    room,
    scale,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute one head of one sequence.

    The softmax is online, as in `attention`, but each of BLOCK lanes keeps a peak and sums of its own over every
    BLOCK-th position. They are added up once at the end.
    """
    sequence, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    width = heads * HEAD_DIM
    column, lane = tl.arange(0, HEAD_DIM), tl.arange(0, BLOCK)
    new_ptr = qkv_ptr + sequence.to(tl.int64) * (3 * width) + head * HEAD_DIM
    cos_sin_ptr += sequence * HEAD_DIM
    cache_at = tl.program_id(0).to(tl.int64) * room * HEAD_DIM
    length = tl.load(lengths_ptr + sequence).to(tl.int32)

    q = _load_rotated(new_ptr, cos_sin_ptr, HEAD_DIM).to(tl.float32) * (scale * LOG2_E)
    new_k = _load_rotated(new_ptr + width, cos_sin_ptr, HEAD_DIM)
    new_v = tl.load(new_ptr + 2 * width + column)
    new_at = cache_at + length * HEAD_DIM + column
    tl.store(keys_ptr + new_at, new_k)
    tl.store(values_ptr + new_at, new_v)

    # The new token begins the first lane's sums, and every lane's peak, so that no peak is infinite.
    peak = tl.zeros((BLOCK,), tl.float32) + tl.sum(q * new_k.to(tl.float32), 0)
    total = tl.where(lane == 0, 1.0, 0.0)
    out = total[:, None] * new_v.to(tl.float32)[None, :]
    for start in range(0, length, BLOCK):
        position = start + lane
        inside = position < length
        k = load_rows(keys_ptr + cache_at, position, inside, HEAD_DIM, HEAD_DIM).to(tl.float32)
        v = load_rows(values_ptr + cache_at, position, inside, HEAD_DIM, HEAD_DIM).to(tl.float32)
        scores = tl.where(inside, tl.sum(k * q[None, :], 1), float("-inf"))
        new_peak = tl.maximum(peak, scores)
        weights, shrink = tl.exp2(scores - new_peak), tl.exp2(peak - new_peak)
        total = total * shrink + weights
        out = out * shrink[:, None] + weights[:, None] * v
        peak = new_peak

    share = tl.exp2(peak - tl.max(peak, 0))
    out = tl.sum(out * share[:, None], 0) / tl.sum(total * share, 0)
    tl.store(out_ptr + sequence.to(tl.int64) * width + head * HEAD_DIM + column, out)
