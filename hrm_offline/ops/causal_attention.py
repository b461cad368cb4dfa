"""Causal softmax attention over sequences that are packed end to end, without padding.

A token sees the tokens of its own sequence up to itself. The kernels follow FlashAttention-2 (Dao 2023, arXiv
2307.08691): scores never reach memory, the backward pass computes them again, and blocks beyond the diagonal are left
out. The gradient of the queries has a kernel, and the gradients of keys and values have another. Each program owns the
rows that it writes: nothing is added up in an order that changes from run to run.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from hrm_offline.ops.dispatch import uses_triton
from hrm_offline.ops.launch import LOG2_E, Config, dot, jit, launch, launcher, load_rows, pick, tracked, triton
from hrm_offline.ops.rope import rope
from hrm_offline.ops.rotate import rotate
from hrm_offline.ops.take_rows import take_each_once

if triton:
    import triton.language as tl

HEAD_DIMS = (16, 32, 64, 128)  # that the kernels are made for


# --- public function ---


def causal_attention(
    qkv: torch.Tensor, num_heads: int, cos_sin: torch.Tensor | None, bounds: torch.Tensor, longest: int
) -> torch.Tensor:
    """Return softmax(q k^T / sqrt(head_dim)) v of each head, [N, heads x head_dim] in the dtype of `qkv`.

    `qkv` [N, 3 x heads x head_dim] holds each token's queries, then its keys, then its values.
    `cos_sin` [N, head_dim] (see `rope_cos_sin`) rotates queries and keys; None rotates nothing.
    `bounds`, int32 [B + 1] on the device of `qkv`, says where sequences begin: sequence b is tokens bounds[b] to
    bounds[b + 1], the first bound is 0 and the last is N. Sequences may be empty.
    `longest` is the length of the longest sequence, or more. The bounds themselves are not checked, since reading them
    would wait for the device. Raises `ValueError` for shapes and dtypes that do not fit.
    """
    _check(qkv, num_heads, cos_sin, bounds, longest)
    head_dim = qkv.shape[1] // (3 * num_heads)
    problem = None if head_dim in HEAD_DIMS else f"head dimension {head_dim} is none of {HEAD_DIMS}"
    fused = uses_triton("causal_attention", qkv, problem)
    # Plain PyTorch rotates in several passes, which one kernel can do even on chips without our attention.
    if cos_sin is not None and (fused or uses_triton("rotate", qkv)):
        qkv, cos_sin = rotate(qkv[None], num_heads, cos_sin)[0], None
    if not fused:
        return causal_attention_reference(qkv, num_heads, cos_sin, bounds, longest)
    qkv, bounds = qkv.contiguous(), bounds.contiguous()
    if tracked(qkv):
        return _CausalAttention.apply(qkv, bounds, num_heads, longest)
    return _forward(qkv, bounds, num_heads, longest, None)


def _check(qkv, num_heads, cos_sin, bounds, longest) -> None:
    tokens, width = qkv.shape
    if width % (6 * num_heads):
        raise ValueError(f"qkv has {width} columns, expected 3 x {num_heads} heads x an even head dimension")
    head_dim = width // (3 * num_heads)
    if cos_sin is not None and cos_sin.shape != (tokens, head_dim):
        raise ValueError(f"cos_sin has shape {tuple(cos_sin.shape)}, expected {tokens}, {head_dim}")
    if bounds.ndim != 1 or len(bounds) == 0 or bounds.dtype is not torch.int32:
        raise ValueError(f"bounds are {bounds.dtype} of shape {tuple(bounds.shape)}, expected int32 [B + 1]")
    if tokens > (len(bounds) - 1) * longest:
        raise ValueError(f"{len(bounds) - 1} sequences of up to {longest} tokens cannot hold {tokens} tokens")


# --- plain PyTorch twin ---


def causal_attention_reference(
    qkv: torch.Tensor, num_heads: int, cos_sin: torch.Tensor | None, bounds: torch.Tensor, longest: int
) -> torch.Tensor:
    """Compute `causal_attention` in plain PyTorch, with sequences padded to `longest` tokens.

    Padding stands after a sequence's tokens, so that they do not see it.
    """
    tokens, width = qkv.shape
    batch = len(bounds) - 1
    if tokens == 0:
        return qkv[:, : width // 3]
    qk, v = qkv.view(tokens, 3 * num_heads, -1).split([2 * num_heads, num_heads], dim=1)
    if cos_sin is not None:
        qk = rope(qk, cos_sin)
    ragged = tokens != batch * longest  # otherwise all sequences have the longest one's length
    slots = _slots(bounds, tokens, longest) if ragged else None
    qk, v = (_padded(part, slots, batch, longest).transpose(1, 2) for part in (qk, v))  # [B, heads, T, head_dim]
    q, k = qk.chunk(2, dim=1)
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    out = out.transpose(1, 2).reshape(batch * longest, width // 3)
    return take_each_once(out, slots) if ragged else out


def _slots(bounds: torch.Tensor, tokens: int, longest: int) -> torch.Tensor:
    """Return each token's row, int64 [N], where sequences are padded to `longest` tokens."""
    token = torch.arange(tokens, device=bounds.device)
    sequence = torch.searchsorted(bounds[1:], token, right=True)
    return sequence * longest + token - bounds[sequence]


def _padded(x: torch.Tensor, slots: torch.Tensor | None, batch: int, longest: int) -> torch.Tensor:
    """Return x [N, heads, head_dim] as [B, longest, heads, head_dim]. The padding is zero."""
    if slots is not None:
        x = x.new_zeros(batch * longest, *x.shape[1:]).index_copy(0, slots, x)
    return x.unflatten(0, (batch, longest))


# --- autograd function ---


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, qkv, bounds, num_heads, longest):
        lse = qkv.new_empty(num_heads, len(qkv), dtype=torch.float32)
        out = _forward(qkv, bounds, num_heads, longest, lse)
        ctx.save_for_backward(qkv, bounds, out, lse)
        ctx.num_heads, ctx.longest = num_heads, longest
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        qkv, bounds, out, lse = ctx.saved_tensors
        grad_qkv, delta = torch.empty_like(qkv), torch.empty_like(lse)
        causal_attention_backward(grad.contiguous(), qkv, bounds, ctx.num_heads, ctx.longest, out, lse, delta, grad_qkv)
        return grad_qkv, None, None, None


def _forward(qkv, bounds, num_heads, longest, lse) -> torch.Tensor:
    out = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
    causal_attention_forward(qkv, bounds, num_heads, longest, out, lse)
    return out


# --- launchers ---

# BLOCK_M queries against BLOCK_N keys at a time.
_FORWARD: dict[int, Config] = {
    75: dict(BLOCK_M=32, BLOCK_N=32, num_warps=4, num_stages=1),
    80: dict(BLOCK_M=128, BLOCK_N=64, num_warps=8, num_stages=2),
    90: dict(BLOCK_M=128, BLOCK_N=64, num_warps=8, num_stages=3),
    120: dict(BLOCK_M=128, BLOCK_N=64, num_warps=8, num_stages=2),
}
_BACKWARD: dict[int, Config] = {
    75: dict(BLOCK_M=32, BLOCK_N=32, num_warps=4, num_stages=1),
    80: dict(BLOCK_M=64, BLOCK_N=32, num_warps=4, num_stages=2),
    90: dict(BLOCK_M=64, BLOCK_N=64, num_warps=8, num_stages=2),
    120: dict(BLOCK_M=64, BLOCK_N=32, num_warps=4, num_stages=2),
}
# Up to head dimension 32. With the tile of the others, dimension 32 spills on 12.0.
_BACKWARD_32: dict[int, Config] = _BACKWARD | {120: dict(BLOCK_M=64, BLOCK_N=64, num_warps=4, num_stages=2)}


@launcher("(Tensor qkv, Tensor bounds, int num_heads, int longest, Tensor(a!) out, Tensor(b!)? lse) -> ()")
def causal_attention_forward(qkv, bounds, num_heads, longest, out, lse):
    """Fill `out` [N, heads x head_dim] and, unless it is None, `lse` float32 [heads, N].

    `lse` is the base-2 logarithm of the sum in each softmax.
    """
    config = pick(_FORWARD, qkv)
    head_dim = qkv.shape[1] // (3 * num_heads)
    launch(
        _causal_attention_forward_kernel,
        _programs(bounds, num_heads, longest, config["BLOCK_M"]),
        qkv,
        bounds,
        out,
        lse,
        len(qkv),
        num_heads,
        longest,
        head_dim**-0.5,
        HEAD_DIM=head_dim,
        SAVE=lse is not None,
        **config,
    )


@launcher(
    "(Tensor grad, Tensor qkv, Tensor bounds, int num_heads, int longest, Tensor out, Tensor lse, "
    "Tensor(a!) delta, Tensor(b!) grad_qkv) -> ()"
)
def causal_attention_backward(grad, qkv, bounds, num_heads, longest, out, lse, delta, grad_qkv):
    """Fill `grad_qkv`. `delta` float32 [heads, N] is scratch memory."""
    head_dim = qkv.shape[1] // (3 * num_heads)
    config = pick(_BACKWARD if head_dim > 32 else _BACKWARD_32, qkv)
    sizes, constants = (len(qkv), num_heads, longest, head_dim**-0.5), dict(HEAD_DIM=head_dim, **config)
    launch(
        _causal_attention_grad_q_kernel,
        _programs(bounds, num_heads, longest, config["BLOCK_M"]),
        *(qkv, bounds, grad, out, lse, delta, grad_qkv),
        *sizes,
        **constants,
    )
    launch(
        _causal_attention_grad_kv_kernel,
        _programs(bounds, num_heads, longest, config["BLOCK_N"]),
        *(qkv, bounds, grad, lse, delta, grad_qkv),
        *sizes,
        **constants,
    )


def _programs(bounds, num_heads: int, longest: int, block: int) -> int:
    return (len(bounds) - 1) * num_heads * triton.cdiv(longest, block)


# --- kernels ---


@jit
def _locate(bounds_ptr, tokens, heads, longest, HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr):
    """Return a program's first row within its sequence, the sequence's length, and three offsets.

    The offsets are in elements, of the sequence's first token and the program's head: into `qkv` (its queries), into
    outputs, and into numbers kept per head and token (`lse`, `delta`). Programs of one sequence and head follow each
    other, so that they share its keys in the L2 cache.
    """
    blocks = tl.cdiv(longest, BLOCK)
    pair = tl.program_id(0) // blocks
    sequence, head = pair // heads, pair % heads
    first = tl.load(bounds_ptr + sequence)
    length = tl.load(bounds_ptr + sequence + 1) - first
    start = tl.program_id(0) % blocks * BLOCK
    first_out, column = first.to(tl.int64) * (heads * HEAD_DIM), head * HEAD_DIM
    return start, length, 3 * first_out + column, first_out + column, head.to(tl.int64) * tokens + first


@jit
def _causal_attention_forward_kernel(
    qkv_ptr,
    bounds_ptr,
    out_ptr,
    lse_ptr,
    tokens,
    heads,
    longest,
    scale,
    HEAD_DIM: tl.constexpr,
    SAVE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    start, length, q_at, out_at, sum_at = _locate(bounds_ptr, tokens, heads, longest, HEAD_DIM, BLOCK_M)
    if start >= length:
        return
    width = heads * HEAD_DIM
    scale_log2 = scale * LOG2_E  # exp(x) is exp2(x log2(e)); the factor costs nothing inside the scale
    q_ptr = qkv_ptr + q_at
    rows = start + tl.arange(0, BLOCK_M)
    row_inside = rows < length

    q = load_rows(q_ptr, rows, row_inside, 3 * width, HEAD_DIM)
    # Online softmax: `peak` is a row's largest score so far, `total` and `out` are sums relative to it.
    peak = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    out = tl.zeros((BLOCK_M, HEAD_DIM), tl.float32)
    for key in range(0, tl.minimum(start + BLOCK_M, length), BLOCK_N):
        columns = key + tl.arange(0, BLOCK_N)
        column_inside = columns < length
        k = load_rows(q_ptr + width, columns, column_inside, 3 * width, HEAD_DIM)
        v = load_rows(q_ptr + 2 * width, columns, column_inside, 3 * width, HEAD_DIM)
        # Every row sees the first key, so that no peak stays infinite.
        scores = tl.where(columns[None, :] <= rows[:, None], dot(q, tl.trans(k)), float("-inf"))
        new_peak = tl.maximum(peak, tl.max(scores, 1))
        weights = tl.exp2(scores * scale_log2 - (new_peak * scale_log2)[:, None])
        shrink = tl.exp2((peak - new_peak) * scale_log2)  # brings the earlier sums to the new peak
        total = total * shrink + tl.sum(weights, 1)
        out = dot(weights.to(v.dtype), v, out * shrink[:, None])
        peak = new_peak

    at = out_ptr + out_at + rows[:, None] * width + tl.arange(0, HEAD_DIM)[None, :]
    tl.store(at, out / total[:, None], mask=row_inside[:, None])
    if SAVE:
        tl.store(lse_ptr + sum_at + rows, peak * scale_log2 + tl.log2(total), mask=row_inside)


@jit
def _causal_attention_grad_q_kernel(
    qkv_ptr,
    bounds_ptr,
    grad_ptr,
    out_ptr,
    lse_ptr,
    delta_ptr,
    grad_qkv_ptr,
    tokens,
    heads,
    longest,
    scale,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Compute the gradient of BLOCK_M queries, and delta for the other kernel.

    delta is the sum of grad * out over each row. It stands for the softmax's own term in the gradient of the scores.
    """
    start, length, q_at, out_at, sum_at = _locate(bounds_ptr, tokens, heads, longest, HEAD_DIM, BLOCK_M)
    if start >= length:
        return
    width = heads * HEAD_DIM
    scale_log2 = scale * LOG2_E
    q_ptr = qkv_ptr + q_at
    rows = start + tl.arange(0, BLOCK_M)
    row_inside = rows < length

    q = load_rows(q_ptr, rows, row_inside, 3 * width, HEAD_DIM)
    grad = load_rows(grad_ptr + out_at, rows, row_inside, width, HEAD_DIM)
    out = load_rows(out_ptr + out_at, rows, row_inside, width, HEAD_DIM)
    delta = tl.sum(grad.to(tl.float32) * out.to(tl.float32), 1)
    tl.store(delta_ptr + sum_at + rows, delta, mask=row_inside)
    lse = tl.load(lse_ptr + sum_at + rows, mask=row_inside, other=0.0)
    grad_q = tl.zeros((BLOCK_M, HEAD_DIM), tl.float32)
    for key in range(0, tl.minimum(start + BLOCK_M, length), BLOCK_N):
        columns = key + tl.arange(0, BLOCK_N)
        column_inside = columns < length
        k = load_rows(q_ptr + width, columns, column_inside, 3 * width, HEAD_DIM)
        v = load_rows(q_ptr + 2 * width, columns, column_inside, 3 * width, HEAD_DIM)
        # exp2 of a score that does not count may be infinite.
        weights = tl.exp2(dot(q, tl.trans(k)) * scale_log2 - lse[:, None])
        weights = tl.where(columns[None, :] <= rows[:, None], weights, 0.0)
        grad_weights = dot(grad, tl.trans(v))
        grad_scores = weights * (grad_weights - delta[:, None])
        grad_q = dot(grad_scores.to(k.dtype), k, grad_q)

    at = grad_qkv_ptr + q_at + rows[:, None] * (3 * width) + tl.arange(0, HEAD_DIM)[None, :]
    tl.store(at, grad_q * scale, mask=row_inside[:, None])


@jit
def _causal_attention_grad_kv_kernel(
    qkv_ptr,
    bounds_ptr,
    grad_ptr,
    lse_ptr,
    delta_ptr,
    grad_qkv_ptr,
    tokens,
    heads,
    longest,
    scale,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Compute the gradients of BLOCK_N keys and values, from the queries that see at least one of them."""
    start, length, q_at, out_at, sum_at = _locate(bounds_ptr, tokens, heads, longest, HEAD_DIM, BLOCK_N)
    if start >= length:
        return
    width = heads * HEAD_DIM
    scale_log2 = scale * LOG2_E
    q_ptr = qkv_ptr + q_at
    columns = start + tl.arange(0, BLOCK_N)
    column_inside = columns < length

    k = load_rows(q_ptr + width, columns, column_inside, 3 * width, HEAD_DIM)
    v = load_rows(q_ptr + 2 * width, columns, column_inside, 3 * width, HEAD_DIM)
    grad_k = tl.zeros((BLOCK_N, HEAD_DIM), tl.float32)
    grad_v = tl.zeros((BLOCK_N, HEAD_DIM), tl.float32)
    for row in range(start, length, BLOCK_M):
        rows = row + tl.arange(0, BLOCK_M)
        row_inside = rows < length
        q = load_rows(q_ptr, rows, row_inside, 3 * width, HEAD_DIM)
        # Rows beyond the end have zero queries and gradients, so they add nothing.
        grad = load_rows(grad_ptr + out_at, rows, row_inside, width, HEAD_DIM)
        lse = tl.load(lse_ptr + sum_at + rows, mask=row_inside, other=0.0)
        delta = tl.load(delta_ptr + sum_at + rows, mask=row_inside, other=0.0)
        weights = tl.exp2(dot(k, tl.trans(q)) * scale_log2 - lse[None, :])
        weights = tl.where(columns[:, None] <= rows[None, :], weights, 0.0)
        grad_v = dot(weights.to(grad.dtype), grad, grad_v)
        grad_weights = dot(v, tl.trans(grad))
        grad_scores = weights * (grad_weights - delta[None, :])
        grad_k = dot(grad_scores.to(q.dtype), q, grad_k)

    at = grad_qkv_ptr + q_at + width + columns[:, None] * (3 * width) + tl.arange(0, HEAD_DIM)[None, :]
    tl.store(at, grad_k * scale, mask=column_inside[:, None])
    tl.store(at + width, grad_v, mask=column_inside[:, None])
