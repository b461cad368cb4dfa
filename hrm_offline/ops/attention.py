"""Softmax attention in which every token sees every token of its sequence, with rotary positions.

The kernels follow FlashAttention-2 (Dao 2023, arXiv 2307.08691): scores never reach memory, and
the backward pass computes them again. Queries and keys are rotated as they are loaded, so no rotated copy
exists. Gradients of queries and of keys have a kernel each that owns its rows, so that nothing is
added in an order that changes from run to run.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from hrm_offline.ops.dispatch import uses_triton
from hrm_offline.ops.launch import Config, dot, jit, launch, launcher, pick, tracked, triton
from hrm_offline.ops.rope import rope

if triton:
    import triton.language as tl

HEAD_DIMS = (16, 32, 64)  # that the kernels are made for


def attention(
    qkv: torch.Tensor, num_heads: int, table: torch.Tensor | None = None, lengths: torch.Tensor | None = None
) -> torch.Tensor:
    """qkv [B, T, 3 x heads x head_dim], a token's queries, keys and values in turn -> [B, T, heads x head_dim].

    Scores are scaled by 1/sqrt(head_dim). `table` (see `rope_table`) is [T, head_dim] or, for
    sequences on canvases of their own, [B, T, head_dim]; None rotates nothing. `lengths` int32
    [B] are the tokens that exist (more than T count as T): those after them are neither read nor
    seen, and their outputs and gradients are zero. Raises `ValueError` for shapes and dtypes that do not fit.
    """
    _check(qkv, num_heads, table, lengths)
    head_dim = qkv.shape[-1] // (3 * num_heads)
    problem = None if head_dim in HEAD_DIMS else f"head dimension {head_dim} is none of {HEAD_DIMS}"
    if not uses_triton("attention", qkv, problem):
        return attention_reference(qkv, num_heads, table, lengths)
    qkv = qkv.contiguous()
    table = None if table is None else table.contiguous()
    ragged = lengths is not None
    lengths = lengths.to(torch.int32).contiguous() if ragged else _all(*qkv.shape[:2], qkv.device)
    if tracked(qkv):
        return _Attention.apply(qkv, table, lengths, num_heads, ragged)
    return _forward(qkv, table, lengths, num_heads, ragged, None)


def attention_reference(
    qkv: torch.Tensor, num_heads: int, table: torch.Tensor | None = None, lengths: torch.Tensor | None = None
) -> torch.Tensor:
    """`attention` in plain PyTorch."""
    batch, tokens, width = qkv.shape
    exists = None
    if lengths is not None:
        exists = torch.arange(tokens, device=qkv.device) < lengths[:, None]
        qkv = torch.where(exists[:, :, None], qkv, 0)
    qk, v = qkv.view(batch, tokens, 3 * num_heads, width // (3 * num_heads)).split([2 * num_heads, num_heads], dim=2)
    if table is not None:
        qk = rope(qk, table)
    q, k, v = (part.transpose(1, 2) for part in (*qk.chunk(2, dim=2), v))
    if exists is None:
        out = F.scaled_dot_product_attention(q, k, v)
    else:
        # A sequence of no tokens would leave a softmax over nothing: it sees one, and its rows are dropped below.
        seen = exists | (torch.arange(tokens, device=qkv.device) == 0)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None])
    out = out.transpose(1, 2).reshape(batch, tokens, width // 3)
    return out if exists is None else torch.where(exists[:, :, None], out, 0)


def _check(qkv, num_heads, table, lengths) -> None:
    batch, tokens, width = qkv.shape
    if width % (6 * num_heads):
        raise ValueError(f"qkv has {width} columns, expected 3 x {num_heads} heads x an even head dimension")
    head_dim = width // (3 * num_heads)
    if table is not None and table.shape not in ((tokens, head_dim), (batch, tokens, head_dim)):
        raise ValueError(f"rotary table of shape {tuple(table.shape)}, expected [{batch}, ]{tokens}, {head_dim}")
    if lengths is not None and (lengths.shape != (batch,) or lengths.is_floating_point()):
        raise ValueError(f"lengths are {lengths.dtype} of shape {tuple(lengths.shape)}, expected {batch} integers")


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)  # cached, as rotary tables are
def _all(batch: int, tokens: int, device: torch.device) -> torch.Tensor:
    """Lengths of sequences that fill their rows, so that the kernels have one form."""
    return torch.full((batch,), tokens, dtype=torch.int32, device=device)


def _forward(qkv, table, lengths, num_heads, ragged, lse) -> torch.Tensor:
    shape = (*qkv.shape[:-1], qkv.shape[-1] // 3)
    # Where sequences end early, nothing is written after their end.
    out = qkv.new_zeros(shape) if ragged else qkv.new_empty(shape)
    attention_forward(qkv, table, lengths, num_heads, out, lse)
    return out


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, qkv, table, lengths, num_heads, ragged):
        lse = qkv.new_empty(qkv.shape[0], num_heads, qkv.shape[1], dtype=torch.float32)
        out = _forward(qkv, table, lengths, num_heads, ragged, lse)
        ctx.save_for_backward(qkv, table, lengths, out, lse)
        ctx.num_heads, ctx.ragged = num_heads, ragged
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        qkv, table, lengths, out, lse = ctx.saved_tensors
        grad_qkv = torch.zeros_like(qkv) if ctx.ragged else torch.empty_like(qkv)
        attention_backward(
            grad.contiguous(), qkv, table, lengths, ctx.num_heads, out, lse, torch.empty_like(lse), grad_qkv
        )
        return grad_qkv, None, None, None, None


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
# With the others' tiles, head dimension 32 spills on 8.9.
_BACKWARD_32: dict[int, Config] = {
    75: _BACKWARD[75],
    80: dict(BLOCK_M=64, BLOCK_N=64, num_warps=4, num_stages=2),
    90: _BACKWARD[90],
    120: dict(BLOCK_M=64, BLOCK_N=64, num_warps=4, num_stages=2),
}


def _shape(qkv, table, num_heads) -> tuple[tuple, dict]:
    """Arguments and constants that the three kernels share."""
    tokens, head_dim = qkv.shape[1], qkv.shape[2] // (3 * num_heads)
    batch_stride = table.stride(0) if table is not None and table.ndim == 3 else 0
    constants = dict(HEAD_DIM=head_dim, ROTATE=table is not None)
    return (tokens, num_heads, batch_stride, head_dim**-0.5), constants


@launcher("(Tensor qkv, Tensor? table, Tensor lengths, int num_heads, Tensor(a!) out, Tensor(b!)? lse) -> ()")
def attention_forward(qkv, table, lengths, num_heads, out, lse):
    """Fill out [B, T, width] and, unless None, lse float32 [B, heads, T], the base-2 logarithm of
    each softmax' sum; tokens after a sequence's length are left as they are."""
    args, constants = _shape(qkv, table, num_heads)
    config = pick(_FORWARD, qkv)
    programs = triton.cdiv(qkv.shape[1], config["BLOCK_M"]) * num_heads * len(qkv)
    launch(
        _attention_forward_kernel,
        programs,
        qkv,
        table,
        lengths,
        out,
        lse,
        *args,
        **constants,
        SAVE=lse is not None,
        **config,
    )


@launcher(
    "(Tensor grad, Tensor qkv, Tensor? table, Tensor lengths, int num_heads, Tensor out, Tensor lse, "
    "Tensor(a!) delta, Tensor(b!) grad_qkv) -> ()"
)
def attention_backward(grad, qkv, table, lengths, num_heads, out, lse, delta, grad_qkv):
    """Fill grad_qkv, except after a sequence's length; delta [B, heads, T] is room to work in."""
    args, constants = _shape(qkv, table, num_heads)
    config = pick(_BACKWARD_32 if constants["HEAD_DIM"] == 32 else _BACKWARD, qkv)
    sequences = num_heads * len(qkv)
    launch(
        _attention_grad_q_kernel,
        triton.cdiv(qkv.shape[1], config["BLOCK_M"]) * sequences,
        qkv,
        table,
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
        table,
        lengths,
        grad,
        lse,
        delta,
        grad_qkv,
        *args,
        **constants,
        **config,
    )


@jit
def _place(lengths_ptr, tokens, heads, HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr):
    """This program's first row, its sequence's length and number, and where its sequence and head
    start: in queries, in outputs, and in sums by row. Programs of one sequence and head follow each
    other and share its keys in the L2 cache."""
    blocks = tl.cdiv(tokens, BLOCK)
    pair = tl.program_id(0) // blocks
    sequence = (pair // heads).to(tl.int64)
    length = tl.minimum(tl.load(lengths_ptr + sequence), tokens)
    column = pair % heads * HEAD_DIM
    first_out = sequence * tokens * (heads * HEAD_DIM)
    start = tl.program_id(0) % blocks * BLOCK
    return start, length, sequence, 3 * first_out + column, first_out + column, pair.to(tl.int64) * tokens


@jit
def _load_rows(ptr, rows, inside, row_stride, COLUMNS: tl.constexpr):
    at = ptr + rows[:, None] * row_stride + tl.arange(0, COLUMNS)[None, :]
    return tl.load(at, mask=inside[:, None], other=0.0)


@jit
def _halves(x):
    """Columns 0 to D/2 of x [rows, D], and the others."""
    split = tl.reshape(x, (x.shape[0], 2, x.shape[1] // 2))
    return tl.split(tl.permute(split, (0, 2, 1)))


@jit
def _load_rotated(ptr, table_ptr, rows, inside, row_stride, HEAD_DIM: tl.constexpr, ROTATE: tl.constexpr):
    """Rows of queries or keys, rotated. Their columns come out in the order 0, D/2, 1, D/2 + 1, ...,
    which the product of two such rows does not see. Rows are loaded whole and split then: halves
    loaded apart come in pieces of 4 bytes."""
    x = _load_rows(ptr, rows, inside, row_stride, HEAD_DIM)
    first, second = _halves(x)
    if ROTATE:
        cos, sin = _halves(_load_rows(table_ptr, rows, inside, HEAD_DIM, HEAD_DIM).to(tl.float32))
        first, second = first.to(tl.float32), second.to(tl.float32)
        first, second = (first * cos - second * sin).to(x.dtype), (second * cos + first * sin).to(x.dtype)
    return tl.reshape(tl.join(first, second), (first.shape[0], HEAD_DIM))


@jit
def _store_rotated_back(ptr, x, table_ptr, rows, inside, row_stride, HEAD_DIM: tl.constexpr, ROTATE: tl.constexpr):
    """Undo the order and the rotation of `_load_rotated` and store."""
    HALF: tl.constexpr = HEAD_DIM // 2
    column = tl.arange(0, HALF)[None, :]
    inside = inside[:, None]
    first, second = tl.split(tl.reshape(x, (x.shape[0], HALF, 2)))
    if ROTATE:
        cos_at = table_ptr + rows[:, None] * HEAD_DIM + column
        cos = tl.load(cos_at, mask=inside, other=0.0).to(tl.float32)
        sin = tl.load(cos_at + HALF, mask=inside, other=0.0).to(tl.float32)
        first, second = first * cos + second * sin, second * cos - first * sin
    at = ptr + rows[:, None] * row_stride + column
    tl.store(at, first, mask=inside)
    tl.store(at + HALF, second, mask=inside)


@jit
def _attention_forward_kernel(
    qkv_ptr,
    table_ptr,
    lengths_ptr,
    out_ptr,
    lse_ptr,
    tokens,
    heads,
    table_stride,
    scale,
    HEAD_DIM: tl.constexpr,
    ROTATE: tl.constexpr,
    SAVE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    start, length, sequence, q_at, out_at, sum_at = _place(lengths_ptr, tokens, heads, HEAD_DIM, BLOCK_M)
    if start >= length:
        return
    width = heads * HEAD_DIM
    scale_log2 = scale * 1.4426950408889634  # exp(x) is exp2(x log2(e)), and the product costs nothing there
    q_ptr = qkv_ptr + q_at
    if ROTATE:
        table_ptr += sequence * table_stride
    rows = start + tl.arange(0, BLOCK_M)
    row_inside = rows < length

    q = _load_rotated(q_ptr, table_ptr, rows, row_inside, 3 * width, HEAD_DIM, ROTATE)
    peak = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    out = tl.zeros((BLOCK_M, HEAD_DIM), tl.float32)
    for key in range(0, length, BLOCK_N):
        columns = key + tl.arange(0, BLOCK_N)
        column_inside = columns < length
        k = _load_rotated(q_ptr + width, table_ptr, columns, column_inside, 3 * width, HEAD_DIM, ROTATE)
        v = _load_rows(q_ptr + 2 * width, columns, column_inside, 3 * width, HEAD_DIM)
        scores = dot(q, tl.trans(k))
        scores = tl.where(column_inside[None, :], scores, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(scores, 1))
        weights = tl.exp2(scores * scale_log2 - (new_peak * scale_log2)[:, None])
        shrink = tl.exp2((peak - new_peak) * scale_log2)
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
    table_ptr,
    lengths_ptr,
    grad_ptr,
    out_ptr,
    lse_ptr,
    delta_ptr,
    grad_qkv_ptr,
    tokens,
    heads,
    table_stride,
    scale,
    HEAD_DIM: tl.constexpr,
    ROTATE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Gradient of BLOCK_M queries; writes delta, the row sums of grad * out, for the other kernel."""
    start, length, sequence, q_at, out_at, sum_at = _place(lengths_ptr, tokens, heads, HEAD_DIM, BLOCK_M)
    if start >= length:
        return
    width = heads * HEAD_DIM
    scale_log2 = scale * 1.4426950408889634
    q_ptr = qkv_ptr + q_at
    if ROTATE:
        table_ptr += sequence * table_stride
    rows = start + tl.arange(0, BLOCK_M)
    row_inside = rows < length

    q = _load_rotated(q_ptr, table_ptr, rows, row_inside, 3 * width, HEAD_DIM, ROTATE)
    grad = _load_rows(grad_ptr + out_at, rows, row_inside, width, HEAD_DIM)
    out = _load_rows(out_ptr + out_at, rows, row_inside, width, HEAD_DIM)
    delta = tl.sum(grad.to(tl.float32) * out.to(tl.float32), 1)
    tl.store(delta_ptr + sum_at + rows, delta, mask=row_inside)
    lse = tl.load(lse_ptr + sum_at + rows, mask=row_inside, other=0.0)
    grad_q = tl.zeros((BLOCK_M, HEAD_DIM), tl.float32)
    for key in range(0, length, BLOCK_N):
        columns = key + tl.arange(0, BLOCK_N)
        column_inside = columns < length
        k = _load_rotated(q_ptr + width, table_ptr, columns, column_inside, 3 * width, HEAD_DIM, ROTATE)
        v = _load_rows(q_ptr + 2 * width, columns, column_inside, 3 * width, HEAD_DIM)
        scores = dot(q, tl.trans(k))
        # Beyond the end a score is 0, which exp2 may blow up to infinity.
        weights = tl.where(column_inside[None, :], tl.exp2(scores * scale_log2 - lse[:, None]), 0.0)
        grad_weights = dot(grad, tl.trans(v))
        grad_scores = weights * (grad_weights - delta[:, None])
        grad_q = dot(grad_scores.to(k.dtype), k, grad_q)

    _store_rotated_back(grad_qkv_ptr + q_at, grad_q * scale, table_ptr, rows, row_inside, 3 * width, HEAD_DIM, ROTATE)


@jit
def _attention_grad_kv_kernel(
    qkv_ptr,
    table_ptr,
    lengths_ptr,
    grad_ptr,
    lse_ptr,
    delta_ptr,
    grad_qkv_ptr,
    tokens,
    heads,
    table_stride,
    scale,
    HEAD_DIM: tl.constexpr,
    ROTATE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Gradients of BLOCK_N keys and values."""
    start, length, sequence, q_at, out_at, sum_at = _place(lengths_ptr, tokens, heads, HEAD_DIM, BLOCK_N)
    if start >= length:
        return
    width = heads * HEAD_DIM
    scale_log2 = scale * 1.4426950408889634
    q_ptr = qkv_ptr + q_at
    if ROTATE:
        table_ptr += sequence * table_stride
    columns = start + tl.arange(0, BLOCK_N)
    column_inside = columns < length

    k = _load_rotated(q_ptr + width, table_ptr, columns, column_inside, 3 * width, HEAD_DIM, ROTATE)
    v = _load_rows(q_ptr + 2 * width, columns, column_inside, 3 * width, HEAD_DIM)
    grad_k = tl.zeros((BLOCK_N, HEAD_DIM), tl.float32)
    grad_v = tl.zeros((BLOCK_N, HEAD_DIM), tl.float32)
    for row in range(0, length, BLOCK_M):
        rows = row + tl.arange(0, BLOCK_M)
        row_inside = rows < length
        q = _load_rotated(q_ptr, table_ptr, rows, row_inside, 3 * width, HEAD_DIM, ROTATE)
        # Rows beyond the end have zero queries and gradients, so they add nothing.
        grad = _load_rows(grad_ptr + out_at, rows, row_inside, width, HEAD_DIM)
        lse = tl.load(lse_ptr + sum_at + rows, mask=row_inside, other=0.0)
        delta = tl.load(delta_ptr + sum_at + rows, mask=row_inside, other=0.0)
        weights = tl.exp2(dot(k, tl.trans(q)) * scale_log2 - lse[None, :])
        grad_v = dot(weights.to(grad.dtype), grad, grad_v)
        grad_weights = dot(v, tl.trans(grad))
        grad_scores = weights * (grad_weights - delta[None, :])
        grad_k = dot(grad_scores.to(q.dtype), q, grad_k)

    _store_rotated_back(
        grad_qkv_ptr + q_at + width, grad_k * scale, table_ptr, columns, column_inside, 3 * width, HEAD_DIM, ROTATE
    )
    at = grad_qkv_ptr + q_at + 2 * width + columns[:, None] * (3 * width) + tl.arange(0, HEAD_DIM)[None, :]
    tl.store(at, grad_v, mask=column_inside[:, None])
