"""The network's input: the puzzle's tokens, then the embeddings of the canvas' tokens, plus positions, scaled."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from hrm_offline.ops.dispatch import decide
from hrm_offline.ops.launch import describe, dot, jit, launch, launcher, tracked, triton

if triton:
    import triton.language as tl


# --- public function ---


def embedding(
    tokens: torch.Tensor,
    table: torch.Tensor,
    puzzle: torch.Tensor | None,
    puzzle_tokens: int,
    positions: torch.Tensor | None,
    scale: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return scale x (concat(puzzle, table[tokens]) + positions), [B, puzzle_tokens + S, width] in `dtype`.

    tokens: integers [B, S].
    table: embeddings of the tokens, float32 [vocabulary, width].
    puzzle: float32 [B, numbers] or None. It fills the first `puzzle_tokens` tokens, with zeros after its numbers.
    positions: float32 [puzzle_tokens + S, width] or None.
    A token outside the table raises in plain PyTorch and becomes NaN in the kernel. Raises `ValueError` for shapes
    that do not fit.
    """
    length, width = puzzle_tokens + tokens.shape[1], table.shape[1]
    puzzle_fits = puzzle is None or (len(puzzle) == len(tokens) and puzzle.shape[1] <= puzzle_tokens * width)
    positions_fit = positions is None or positions.shape == (length, width)
    if not puzzle_fits or not positions_fit or tokens.is_floating_point():
        given = describe(tokens=tokens, table=table, puzzle=puzzle, positions=positions)
        raise ValueError(f"embedding: these do not fit {puzzle_tokens} puzzle tokens: {given}")
    if not decide("embedding", table.device, dtype).triton:
        return embedding_reference(tokens, table, puzzle, puzzle_tokens, positions, scale, dtype)
    tokens, table = tokens.contiguous(), table.contiguous()
    puzzle = None if puzzle is None else puzzle.contiguous()
    positions = None if positions is None else positions.contiguous()
    args = (tokens, table, puzzle, puzzle_tokens, positions, scale, dtype)
    return _Embedding.apply(*args) if tracked(table, puzzle, positions) else _forward(*args)


# --- plain PyTorch twin ---


def embedding_reference(
    tokens: torch.Tensor,
    table: torch.Tensor,
    puzzle: torch.Tensor | None,
    puzzle_tokens: int,
    positions: torch.Tensor | None,
    scale: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Compute `embedding` in plain PyTorch."""
    embedded = F.embedding(tokens, table.to(dtype))  # [B, S, D]
    if puzzle is not None:
        width = table.shape[1]
        front = F.pad(puzzle.to(dtype), (0, puzzle_tokens * width - puzzle.shape[1]))  # [B, puzzle_tokens x D]
        embedded = torch.cat([front.view(len(tokens), puzzle_tokens, width), embedded], dim=1)  # [B, T, D]
    if positions is not None:
        embedded = embedded + positions.to(dtype)
    return scale * embedded


# --- autograd function ---


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tokens, table, puzzle, puzzle_tokens, positions, scale, dtype):
        ctx.save_for_backward(tokens)
        ctx.vocabulary, ctx.puzzle_tokens, ctx.scale = len(table), puzzle_tokens, scale
        ctx.numbers = 0 if puzzle is None else puzzle.shape[1]
        return _forward(tokens, table, puzzle, puzzle_tokens, positions, scale, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (tokens,) = ctx.saved_tensors
        grad = grad.contiguous()
        grad_table = grad_puzzle = grad_positions = None
        if ctx.needs_input_grad[1]:
            # Each program makes one partial sum. These are added up in a fixed order: the same bits every time.
            parts = triton.cdiv(tokens.numel(), _TOKENS_PER_PART)
            partial = grad.new_empty(parts, ctx.vocabulary, grad.shape[2], dtype=torch.float32)
            embedding_backward(grad, tokens, ctx.puzzle_tokens, partial)
            grad_table = partial.sum(0).mul_(ctx.scale)
        if ctx.needs_input_grad[2]:
            grad_puzzle = ctx.scale * grad[:, : ctx.puzzle_tokens].flatten(1)[:, : ctx.numbers].float()
        if ctx.needs_input_grad[4]:
            grad_positions = ctx.scale * grad.float().sum(0)
        return None, grad_table, grad_puzzle, None, grad_positions, None, None


def _forward(tokens, table, puzzle, puzzle_tokens, positions, scale, dtype) -> torch.Tensor:
    out = table.new_empty(len(tokens), puzzle_tokens + tokens.shape[1], table.shape[1], dtype=dtype)
    embedding_forward(tokens, table, puzzle, puzzle_tokens, positions, scale, out)
    return out


# --- launchers ---


_TOKENS_PER_PART = 1024  # for which a program makes a partial sum of the table's gradient


@launcher(
    "(Tensor tokens, Tensor table, Tensor? puzzle, int puzzle_tokens, Tensor? positions, float scale, "
    "Tensor(a!) out) -> ()"
)
def embedding_forward(tokens, table, puzzle, puzzle_tokens, positions, scale, out):
    """Fill `out` [B, puzzle_tokens + S, width]."""
    vocabulary, width = table.shape
    numbers = 0 if puzzle is None else puzzle.shape[1]
    rows, padded = out.numel() // width, triton.next_power_of_2(width)
    tile_rows = max(1, 2048 // padded)
    launch(
        _embedding_forward_kernel,
        triton.cdiv(rows, tile_rows),
        tokens,
        table,
        puzzle,
        positions,
        out,
        rows,
        tokens.shape[1],
        puzzle_tokens,
        numbers,
        vocabulary,
        width,
        scale,
        PUZZLE=puzzle is not None,
        POSITIONS=positions is not None,
        ROWS=tile_rows,
        WIDTH=padded,
        num_warps=4,
    )


@launcher("(Tensor grad, Tensor tokens, int puzzle_tokens, Tensor(a!) partial) -> ()")
def embedding_backward(grad, tokens, puzzle_tokens, partial):
    """Fill `partial` float32 [parts, vocabulary, width]: the table's gradients, summed per part and not yet scaled."""
    parts, vocabulary, width = partial.shape
    columns = max(16, min(64, triton.next_power_of_2(width)))
    launch(
        _embedding_backward_kernel,
        parts * triton.cdiv(width, columns),
        grad,
        tokens,
        partial,
        tokens.numel(),
        tokens.shape[1],
        puzzle_tokens,
        vocabulary,
        width,
        PART=_TOKENS_PER_PART,
        ROWS=32,
        VOCABULARY=max(16, triton.next_power_of_2(vocabulary)),
        COLUMNS=columns,
        num_warps=4,
    )


# --- kernels ---


@jit
def _embedding_forward_kernel(
    tokens_ptr,
    table_ptr,
    puzzle_ptr,
    positions_ptr,
    out_ptr,
    rows,
    cells,
    puzzle_tokens,
    numbers,
    vocabulary,
    width,
    scale,
    PUZZLE: tl.constexpr,
    POSITIONS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)[None, :]
    row_inside, column_inside = row < rows, column < width
    length = puzzle_tokens + cells
    sequence, position = row // length, row % length
    is_cell = row_inside & (position >= puzzle_tokens)
    token = tl.load(tokens_ptr + sequence * cells + position - puzzle_tokens, mask=is_cell, other=0).to(tl.int64)
    known = (token >= 0) & (token < vocabulary)
    # A number that is no token shows as NaN, since a kernel cannot raise.
    missing = tl.where(is_cell & ((token < 0) | (token >= vocabulary)), float("nan"), 0.0)[:, None]
    x = tl.load(table_ptr + token[:, None] * width + column, mask=(is_cell & known)[:, None] & column_inside, other=0.0)
    x += missing
    if PUZZLE:
        number = position[:, None] * width + column
        in_front = (row_inside & (position < puzzle_tokens))[:, None] & column_inside & (number < numbers)
        x += tl.load(puzzle_ptr + sequence[:, None] * numbers + number, mask=in_front, other=0.0)
    inside = row_inside[:, None] & column_inside
    if POSITIONS:
        x += tl.load(positions_ptr + position[:, None] * width + column, mask=inside, other=0.0)
    tl.store(out_ptr + row[:, None] * width + column, x * scale, mask=inside)


@jit
def _embedding_backward_kernel(
    grad_ptr,
    tokens_ptr,
    partial_ptr,
    count,
    cells,
    puzzle_tokens,
    vocabulary,
    width,
    PART: tl.constexpr,
    ROWS: tl.constexpr,
    VOCABULARY: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    blocks = tl.cdiv(width, COLUMNS)
    part = tl.program_id(0) // blocks
    column = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    word = tl.arange(0, VOCABULARY)
    total = tl.zeros((VOCABULARY, COLUMNS), tl.float32)
    for start in range(0, PART, ROWS):
        cell = part.to(tl.int64) * PART + start + tl.arange(0, ROWS)
        inside = cell < count
        token = tl.load(tokens_ptr + cell, mask=inside, other=0)
        row = cell // cells * (puzzle_tokens + cells) + puzzle_tokens + cell % cells
        grad = tl.load(
            grad_ptr + row[:, None] * width + column[None, :],
            mask=inside[:, None] & (column < width)[None, :],
            other=0.0,
        )
        # A product with one-hot rows adds up the gradients of each token, without atomics. The product is made in
        # float32: Triton before 3.4 cannot compile it in 16 bits for every chip.
        chosen = (word[:, None] == token[None, :]).to(tl.float32)
        total = dot(chosen, grad.to(tl.float32), total)
    at = (part.to(tl.int64) * vocabulary + word)[:, None] * width + column[None, :]
    tl.store(partial_ptr + at, total, mask=(word < vocabulary)[:, None] & (column < width)[None, :])
