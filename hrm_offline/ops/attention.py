"""Softmax attention with rotary positions, in which every token sees all tokens of its sequence.

The kernels follow FlashAttention-2 (Dao 2023, arXiv 2307.08691): scores never reach memory, and the backward pass
computes them again. Queries and keys are rotated in a pass of their own, or as the kernels load them (the variants
"rotate first" and "rotate inside"). The second way needs no rotated copy, but every block of queries rotates all keys
again. The gradient of the queries has a kernel, and the gradients of keys and values have another. Each program owns
the rows that it writes: nothing is added up in an order that changes from run to run.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from hrm_offline.ops.dispatch import uses_triton, variant
from hrm_offline.ops.launch import LOG2_E, Config, dot, jit, launch, launcher, load_rows, pick, tracked, triton
from hrm_offline.ops.rope import rope
from hrm_offline.ops.rotate import rotate

if triton:
    import triton.language as tl

HEAD_DIMS = (16, 32, 64)  # that the kernels are made for


# --- public function ---


def attention(
    qkv: torch.Tensor, num_heads: int, cos_sin: torch.Tensor | None = None, lengths: torch.Tensor | None = None
) -> torch.Tensor:
    """Return softmax(q k^T / sqrt(head_dim)) v of each head, [B, T, heads x head_dim] in the dtype of `qkv`.

    `qkv` [B, T, 3 x heads x head_dim] holds each token's queries, then its keys, then its values.
    `cos_sin` (see `rope_cos_sin`) rotates queries and keys. It is [T, head_dim], or [B, T, head_dim] for sequences
    that lie on canvases of their own; None rotates nothing.
    `lengths`, integers [B], says how many tokens of each sequence exist; more than T count as T. Tokens after them are
    neither read nor seen, and their outputs and gradients are zero.
    Raises `ValueError` for shapes and dtypes that do not fit.
    """
    _check(qkv, num_heads, cos_sin, lengths)
    head_dim = qkv.shape[-1] // (3 * num_heads)
    problem = None if head_dim in HEAD_DIMS else f"head dimension {head_dim} is none of {HEAD_DIMS}"
    fused = uses_triton("attention", qkv, problem)
    # Plain PyTorch rotates in several passes, which one kernel can do even on chips without our attention.
    rotates_first = variant("attention") != "rotate inside" if fused else uses_triton("rotate", qkv)
    if cos_sin is not None and rotates_first:
        qkv, cos_sin = rotate(qkv, num_heads, cos_sin), None
    if not fused:
        return attention_reference(qkv, num_heads, cos_sin, lengths)
    qkv = qkv.contiguous()
    cos_sin = None if cos_sin is None else cos_sin.contiguous()
    ragged = lengths is not None
    lengths = lengths.to(torch.int32).contiguous() if ragged else _full_lengths(*qkv.shape[:2], qkv.device)
    if tracked(qkv):
        return _Attention.apply(qkv, cos_sin, lengths, num_heads, ragged)
    return _forward(qkv, cos_sin, lengths, num_heads, ragged, None)


def _check(qkv, num_heads, cos_sin, lengths) -> None:
    batch, tokens, width = qkv.shape
    if width % (6 * num_heads):
        raise ValueError(f"qkv has {width} columns, expected 3 x {num_heads} heads x an even head dimension")
    head_dim = width // (3 * num_heads)
    if cos_sin is not None and cos_sin.shape not in ((tokens, head_dim), (batch, tokens, head_dim)):
        raise ValueError(f"cos_sin has shape {tuple(cos_sin.shape)}, expected [{batch}, ]{tokens}, {head_dim}")
    if lengths is not None and (lengths.shape != (batch,) or lengths.is_floating_point()):
        raise ValueError(f"lengths are {lengths.dtype} of shape {tuple(lengths.shape)}, expected {batch} integers")


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)  # a cached tensor serves training too, whoever asks first
def _full_lengths(batch: int, tokens: int, device: torch.device) -> torch.Tensor:
    """Return the lengths int32 [B] of sequences without an early end, so that the kernels have one form."""
    return torch.full((batch,), tokens, dtype=torch.int32, device=device)


# --- plain PyTorch twin ---


def attention_reference(
    qkv: torch.Tensor, num_heads: int, cos_sin: torch.Tensor | None = None, lengths: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute `attention` in plain PyTorch."""
    batch, tokens, width = qkv.shape
    exists = None
    if lengths is not None:
        exists = torch.arange(tokens, device=qkv.device) < lengths[:, None]  # [B, T]
        qkv = torch.where(exists[:, :, None], qkv, 0)
    by_head = qkv.view(batch, tokens, 3 * num_heads, width // (3 * num_heads))
    qk, v = by_head.split([2 * num_heads, num_heads], dim=2)  # [B, T, 2 x heads, D], [B, T, heads, D]
    if cos_sin is not None:
        qk = rope(qk, cos_sin)
    q, k = qk.chunk(2, dim=2)
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # [B, heads, T, D]
    seen = None
    if exists is not None:
        # A softmax over no token is NaN, so the first token of an empty sequence is seen too. Its output is dropped.
        is_first = torch.arange(tokens, device=qkv.device) == 0
        seen = (exists | is_first)[:, None, None]  # [B, 1, 1, T]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)  # [B, heads, T, D]
    out = out.transpose(1, 2).reshape(batch, tokens, width // 3)
    return out if exists is None else torch.where(exists[:, :, None], out, 0)


# --- autograd function ---


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, qkv, cos_sin, lengths, num_heads, ragged):
        lse = qkv.new_empty(qkv.shape[0], num_heads, qkv.shape[1], dtype=torch.float32)
        out = _forward(qkv, cos_sin, lengths, num_heads, ragged, lse)
        ctx.save_for_backward(qkv, cos_sin, lengths, out, lse)
        ctx.num_heads, ctx.ragged = num_heads, ragged
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        qkv, cos_sin, lengths, out, lse = ctx.saved_tensors
        # The kernels write nothing after a sequence's end.
        grad_qkv = torch.zeros_like(qkv) if ctx.ragged else torch.empty_like(qkv)
        delta = torch.empty_like(lse)
        attention_backward(grad.contiguous(), qkv, cos_sin, lengths, ctx.num_heads, out, lse, delta, grad_qkv)
        return grad_qkv, None, None, None, None


def _forward(qkv, cos_sin, lengths, num_heads, ragged, lse) -> torch.Tensor:
    shape = (*qkv.shape[:-1], qkv.shape[-1] // 3)
    # The kernel writes nothing after a sequence's end.
    out = qkv.new_zeros(shape) if ragged else qkv.new_empty(shape)
    attention_forward(qkv, cos_sin, lengths, num_heads, out, lse)
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
# Rotating inside, head dimension 32 spills on 8.9 with the tiles of the others; rotated first, it spills with these.
_BACKWARD_32: dict[int, Config] = {
    75: _BACKWARD[75],
    80: dict(BLOCK_M=64, BLOCK_N=64, num_warps=4, num_stages=2),
    90: _BACKWARD[90],
    120: dict(BLOCK_M=64, BLOCK_N=64, num_warps=4, num_stages=2),
}
# The variant "small tiles": more programs and less padding for short sequences, and more loads for long ones.
_SMALL_FORWARD: dict[int, Config] = {
    75: _FORWARD[75],
    80: dict(BLOCK_M=64, BLOCK_N=64, num_warps=4, num_stages=2),
}
_SMALL_BACKWARD: dict[int, Config] = {
    75: _BACKWARD[75],
    80: dict(BLOCK_M=32, BLOCK_N=64, num_warps=4, num_stages=2),
}


def _takes_small_tiles() -> bool:
    return variant("attention") == "rotate first, small tiles"


def _shared_arguments(qkv, cos_sin, num_heads) -> tuple[tuple, dict]:
    """Return the arguments and the constants that the three kernels have in common."""
    tokens, head_dim = qkv.shape[1], qkv.shape[2] // (3 * num_heads)
    # 0 where all sequences share one cos_sin [T, head_dim].
    cos_sin_stride = cos_sin.stride(0) if cos_sin is not None and cos_sin.ndim == 3 else 0
    scale = head_dim**-0.5
    return (tokens, num_heads, cos_sin_stride, scale), dict(HEAD_DIM=head_dim, ROTATE=cos_sin is not None)


@launcher("(Tensor qkv, Tensor? cos_sin, Tensor lengths, int num_heads, Tensor(a!) out, Tensor(b!)? lse) -> ()")
def attention_forward(qkv, cos_sin, lengths, num_heads, out, lse):
    """Fill `out` [B, T, width] and, unless it is None, `lse` float32 [B, heads, T].

    `lse` is the base-2 logarithm of the sum in each softmax. Rows after a sequence's length are left as they are.
    """
    args, constants = _shared_arguments(qkv, cos_sin, num_heads)
    config = pick(_SMALL_FORWARD if _takes_small_tiles() else _FORWARD, qkv)
    programs = triton.cdiv(qkv.shape[1], config["BLOCK_M"]) * num_heads * len(qkv)
    launch(
        _attention_forward_kernel,
        programs,
        qkv,
        cos_sin,
        lengths,
        out,
        lse,
        *args,
        **constants,
        SAVE=lse is not None,
        **config,
    )


@launcher(
    "(Tensor grad, Tensor qkv, Tensor? cos_sin, Tensor lengths, int num_heads, Tensor out, Tensor lse, "
    "Tensor(a!) delta, Tensor(b!) grad_qkv) -> ()"
)
def attention_backward(grad, qkv, cos_sin, lengths, num_heads, out, lse, delta, grad_qkv):
    """Fill `grad_qkv`, except after a sequence's length. `delta` float32 [B, heads, T] is scratch memory."""
    args, constants = _shared_arguments(qkv, cos_sin, num_heads)
    rotates_32 = constants["HEAD_DIM"] == 32 and constants["ROTATE"]
    config = pick(_SMALL_BACKWARD if _takes_small_tiles() else _BACKWARD_32 if rotates_32 else _BACKWARD, qkv)
    sequences = num_heads * len(qkv)
    launch(
        _attention_grad_q_kernel,
        triton.cdiv(qkv.shape[1], config["BLOCK_M"]) * sequences,
        qkv,
        cos_sin,
        lengths,
        grad,
        out,
        lse,
        delta,
        grad_qkv,
        *args,
        **constants,
        **config,
    )
    launch(
        _attention_grad_kv_kernel,
        triton.cdiv(qkv.shape[1], config["BLOCK_N"]) * sequences,
        qkv,
        cos_sin,
        lengths,
        grad,
        lse,
        delta,
        grad_qkv,
        *args,
        **constants,
        **config,
    )


# --- kernels ---


@jit
def _locate(lengths_ptr, tokens, heads, HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr):
    """Return a program's first row, its sequence's length and number, and three offsets of its sequence and head.

    The offsets are in elements: into `qkv` (its queries), into outputs, and into numbers kept per row (`lse`, `delta`).
    Programs of one sequence and head follow each other, so that they share its keys in the L2 cache.
    """
    blocks = tl.cdiv(tokens, BLOCK)
    pair = tl.program_id(0) // blocks
    sequence = (pair // heads).to(tl.int64)
    length = tl.minimum(tl.load(lengths_ptr + sequence), tokens)
    column = pair % heads * HEAD_DIM
    first_out = sequence * tokens * (heads * HEAD_DIM)
    start = tl.program_id(0) % blocks * BLOCK
    return start, length, sequence, 3 * first_out + column, first_out + column, pair.to(tl.int64) * tokens


@jit
def _halves(x):
    """Return columns 0 to D/2 of x [rows, D], and columns D/2 to D."""
    split = tl.reshape(x, (x.shape[0], 2, x.shape[1] // 2))
    return tl.split(tl.permute(split, (0, 2, 1)))


@jit
def _load_rotated(ptr, cos_sin_ptr, rows, inside, row_stride, HEAD_DIM: tl.constexpr, ROTATE: tl.constexpr):
    """Load rows of queries or keys and rotate them, as `rope` does.

    The columns come out in the order 0, D/2, 1, D/2 + 1, ... The product of two such rows does not depend on it.
    Rows are loaded whole and split afterwards: loads of halves would move only 4 bytes at a time.
    """
    x = load_rows(ptr, rows, inside, row_stride, HEAD_DIM)
    first, second = _halves(x)
    if ROTATE:
        cos, sin = _halves(load_rows(cos_sin_ptr, rows, inside, HEAD_DIM, HEAD_DIM).to(tl.float32))
        first, second = first.to(tl.float32), second.to(tl.float32)
        first, second = (first * cos - second * sin).to(x.dtype), (second * cos + first * sin).to(x.dtype)
    return tl.reshape(tl.join(first, second), (first.shape[0], HEAD_DIM))


@jit
def _store_rotated_back(ptr, x, cos_sin_ptr, rows, inside, row_stride, HEAD_DIM: tl.constexpr, ROTATE: tl.constexpr):
    """Undo the column order and the rotation of `_load_rotated`, and store the rows.

    A rotation's inverse is its transpose, which turns the gradient of rotated rows into that of the rows.
    """
    HALF: tl.constexpr = HEAD_DIM // 2
    column = tl.arange(0, HALF)[None, :]
    inside = inside[:, None]
    first, second = tl.split(tl.reshape(x, (x.shape[0], HALF, 2)))
    if ROTATE:
        cos_at = cos_sin_ptr + rows[:, None] * HEAD_DIM + column
        cos = tl.load(cos_at, mask=inside, other=0.0).to(tl.float32)
        sin = tl.load(cos_at + HALF, mask=inside, other=0.0).to(tl.float32)
        first, second = first * cos + second * sin, second * cos - first * sin
    at = ptr + rows[:, None] * row_stride + column
    tl.store(at, first, mask=inside)
    tl.store(at + HALF, second, mask=inside)


@jit
def _attention_forward_kernel(
    qkv_ptr,
    cos_sin_ptr,
    lengths_ptr,
    out_ptr,
    lse_ptr,
    tokens,
    heads,
    cos_sin_stride,
    scale,
    HEAD_DIM: tl.constexpr,
    ROTATE: tl.constexpr,
    SAVE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    start, length, sequence, q_at, out_at, sum_at = _locate(lengths_ptr, tokens, heads, HEAD_DIM, BLOCK_M)
    if start >= length:
        return
    width = heads * HEAD_DIM
    scale_log2 = scale * LOG2_E  # exp(x) is exp2(x log2(e)); the factor costs nothing inside the scale
    q_ptr = qkv_ptr + q_at
    if ROTATE:
        cos_sin_ptr += sequence * cos_sin_stride
    rows = start + tl.arange(0, BLOCK_M)
    row_inside = rows < length

    q = _load_rotated(q_ptr, cos_sin_ptr, rows, row_inside, 3 * width, HEAD_DIM, ROTATE)
    # Online softmax: `peak` is a row's largest score so far, `total` and `out` are sums relative to it.
    peak = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    out = tl.zeros((BLOCK_M, HEAD_DIM), tl.float32)
    for key in range(0, length, BLOCK_N):
        columns = key + tl.arange(0, BLOCK_N)
        column_inside = columns < length
        k = _load_rotated(q_ptr + width, cos_sin_ptr, columns, column_inside, 3 * width, HEAD_DIM, ROTATE)
        v = load_rows(q_ptr + 2 * width, columns, column_inside, 3 * width, HEAD_DIM)
        scores = dot(q, tl.trans(k))
        scores = tl.where(column_inside[None, :], scores, float("-inf"))
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
def _attention_grad_q_kernel(
    qkv_ptr,
    cos_sin_ptr,
    lengths_ptr,
    grad_ptr,
    out_ptr,
    lse_ptr,
    delta_ptr,
    grad_qkv_ptr,
    tokens,
    heads,
    cos_sin_stride,
    scale,
    HEAD_DIM: tl.constexpr,
    ROTATE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Compute the gradient of BLOCK_M queries, and delta for the other kernel.

    delta is the sum of grad * out over each row. It stands for the softmax's own term in the gradient of the scores.
    """
    start, length, sequence, q_at, out_at, sum_at = _locate(lengths_ptr, tokens, heads, HEAD_DIM, BLOCK_M)
    if start >= length:
        return
    width = heads * HEAD_DIM
    scale_log2 = scale * LOG2_E
    q_ptr = qkv_ptr + q_at
    if ROTATE:
        cos_sin_ptr += sequence * cos_sin_stride
    rows = start + tl.arange(0, BLOCK_M)
    row_inside = rows < length

    q = _load_rotated(q_ptr, cos_sin_ptr, rows, row_inside, 3 * width, HEAD_DIM, ROTATE)
    grad = load_rows(grad_ptr + out_at, rows, row_inside, width, HEAD_DIM)
    out = load_rows(out_ptr + out_at, rows, row_inside, width, HEAD_DIM)
    delta = tl.sum(grad.to(tl.float32) * out.to(tl.float32), 1)
    tl.store(delta_ptr + sum_at + rows, delta, mask=row_inside)
    lse = tl.load(lse_ptr + sum_at + rows, mask=row_inside, other=0.0)
    grad_q = tl.zeros((BLOCK_M, HEAD_DIM), tl.float32)
    for key in range(0, length, BLOCK_N):
        columns = key + tl.arange(0, BLOCK_N)
        column_inside = columns < length
        k = _load_rotated(q_ptr + width, cos_sin_ptr, columns, column_inside, 3 * width, HEAD_DIM, ROTATE)
        v = load_rows(q_ptr + 2 * width, columns, column_inside, 3 * width, HEAD_DIM)
        scores = dot(q, tl.trans(k))
        # A score beyond the end is 0, and exp2(0 - lse) may be infinite.
        weights = tl.where(column_inside[None, :], tl.exp2(scores * scale_log2 - lse[:, None]), 0.0)
        grad_weights = dot(grad, tl.trans(v))
        grad_scores = weights * (grad_weights - delta[:, None])
        grad_q = dot(grad_scores.to(k.dtype), k, grad_q)

    _store_rotated_back(grad_qkv_ptr + q_at, grad_q * scale, cos_sin_ptr, rows, row_inside, 3 * width, HEAD_DIM, ROTATE)


@jit
def _attention_grad_kv_kernel(
    qkv_ptr,
    cos_sin_ptr,
    lengths_ptr,
    grad_ptr,
    lse_ptr,
    delta_ptr,
    grad_qkv_ptr,
    tokens,
    heads,
    cos_sin_stride,
    scale,
    HEAD_DIM: tl.constexpr,
    ROTATE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Compute the gradients of BLOCK_N keys and values."""
    start, length, sequence, q_at, out_at, sum_at = _locate(lengths_ptr, tokens, heads, HEAD_DIM, BLOCK_N)
    if start >= length:
        return
    width = heads * HEAD_DIM
    scale_log2 = scale * LOG2_E
    q_ptr = qkv_ptr + q_at
    if ROTATE:
        cos_sin_ptr += sequence * cos_sin_stride
    columns = start + tl.arange(0, BLOCK_N)
    column_inside = columns < length

    k = _load_rotated(q_ptr + width, cos_sin_ptr, columns, column_inside, 3 * width, HEAD_DIM, ROTATE)
    v = load_rows(q_ptr + 2 * width, columns, column_inside, 3 * width, HEAD_DIM)
    grad_k = tl.zeros((BLOCK_N, HEAD_DIM), tl.float32)
    grad_v = tl.zeros((BLOCK_N, HEAD_DIM), tl.float32)
    for row in range(0, length, BLOCK_M):
        rows = row + tl.arange(0, BLOCK_M)
        row_inside = rows < length
        q = _load_rotated(q_ptr, cos_sin_ptr, rows, row_inside, 3 * width, HEAD_DIM, ROTATE)
        # Rows beyond the end have zero queries and gradients, so they add nothing.
        grad = load_rows(grad_ptr + out_at, rows, row_inside, width, HEAD_DIM)
        lse = tl.load(lse_ptr + sum_at + rows, mask=row_inside, other=0.0)
        delta = tl.load(delta_ptr + sum_at + rows, mask=row_inside, other=0.0)
        weights = tl.exp2(dot(k, tl.trans(q)) * scale_log2 - lse[None, :])
        grad_v = dot(weights.to(grad.dtype), grad, grad_v)
        grad_weights = dot(v, tl.trans(grad))
        grad_scores = weights * (grad_weights - delta[None, :])
        grad_k = dot(grad_scores.to(q.dtype), q, grad_k)

    _store_rotated_back(
        grad_qkv_ptr + q_at + width, grad_k * scale, cos_sin_ptr, columns, column_inside, 3 * width, HEAD_DIM, ROTATE
    )
    at = grad_qkv_ptr + q_at + 2 * width + columns[:, None] * (3 * width) + tl.arange(0, HEAD_DIM)[None, :]
    tl.store(at, grad_v, mask=column_inside[:, None])
